import { sql } from 'kysely'
import type { Database } from '../db/pool.ts'
import { NotRegisteredError, registration } from '../db/registration.ts'
import { relaxed } from '../db/relaxed.ts'
import type { Transaction } from '../db/transaction.ts'
import { unforeseen } from '../db/unforeseen.ts'
import type { Address, Message, StoredAttachment } from '../message/message.ts'
import { removeContent } from '../message-content.ts'
import { SETTINGS, SETTINGS_OF_QUEUE } from '../queue/job-settings.ts'
import type { TemplateContent } from '../templates/template-content.ts'

const isAccepted = unforeseen(sql`m.status = 'accepted'`)

export type AcceptedMessage = {
  readonly id: string
  readonly priority: number
  readonly source: string
  readonly message: Message
}

/** As it is stored: of sensitive mail without its secrets, which are `sealed`. */
export type LoadedMessage = AcceptedMessage & { readonly sealed: string | null }

/** Those of the ids that still wait for processing, with what they hold, in the order in which they came. */
export async function loadAccepted(db: Database, ids: readonly string[]): Promise<LoadedMessage[]> {
  const { rows } = await sql<LoadedMessage>`/* processing.load */
    select m.id, m.priority, m.source, c.message, c.sealed
    from mail.message m
    join mail.message_content c on c.id = m.id
    where m.id = any (${ids}::uuid[]) and c.id = any (${ids}::uuid[]) and ${isAccepted}
    order by m.seq
  `.execute(db)
  return rows
}

/** Those of the ids whose attachments were fetched already. */
export async function findFetched(db: Database, ids: readonly string[]): Promise<string[]> {
  const { rows } = await sql<{ id: string }>`/* processing.find_fetched */
    select id from mail.message_prepared where id = any (${ids}::uuid[]) and attachments is not null
  `.execute(db)
  return rows.map((row) => row.id)
}

/** False when the message does not wait for processing any more. */
export async function storeFetched(
  trx: Transaction,
  id: string,
  attachments: readonly StoredAttachment[],
): Promise<boolean> {
  const { rows } = await sql`/* processing.store_fetched */
    insert into mail.message_prepared (id, attachments)
    select id, ${JSON.stringify(attachments)}::json
    from mail.message
    where id = ${id}::uuid and status = 'accepted'
    on conflict (id) do update set attachments = excluded.attachments
    returning id
  `.execute(trx)
  return rows.length > 0
}

/** Of a sensitive message: its content anew, with what was fetched. False when it does not wait any more. */
export async function storeFetchedSealed(trx: Transaction, id: string, sealed: string): Promise<boolean> {
  const { rows } = await sql`/* processing.store_fetched_sealed */
    with waiting as materialized (
      -- Whoever ends the message at this moment removes its content: before us or after.
      select id from mail.message where id = ${id}::uuid and status = 'accepted' for share
    )
    update mail.message_content c
    set sealed = ${sealed}, key_id = split_part(${sealed}, '.', 3)
    from waiting
    where c.id = ${id}::uuid and c.id = waiting.id
    returning 1
  `.execute(trx)
  return rows.length > 0
}

/**
 * Notes who works on these jobs, so that they can be given back if this process dies. Throws a
 * NotRegisteredError when this worker was taken for dead: under its old number nobody would look for them.
 */
export async function recordClaims(
  trx: Transaction,
  queue: string,
  jobIds: readonly string[],
  worker: number,
): Promise<void> {
  const { rows } = await sql`/* processing.record_claims */
    with me as materialized (${registration(worker)}), ${relaxed}
    insert into mail.claim (queue, job_id, worker)
    select ${queue}, job_id, me.number
    from me cross join relaxed cross join unnest(${jobIds}::uuid[]) as job_id
    on conflict (queue, job_id) do update set worker = excluded.worker
    returning 1
  `.execute(trx)
  if (rows.length === 0) throw new NotRegisteredError(worker)
}

/** Ends those of these jobs that are this worker's; says how many. */
export async function endJobs(
  trx: Transaction,
  queue: string,
  jobIds: readonly string[],
  worker: number,
): Promise<number> {
  const { rows } = await sql<{ ended: number }>`/* processing.end_jobs */
    with released as (
      delete from mail.claim
      where queue = ${queue} and job_id = any (${jobIds}::uuid[]) and worker = ${worker}
      returning job_id
    ), ended as (
      delete from pgboss.job
      where name = ${queue} and id = any (${jobIds}::uuid[]) and id = any (array(select job_id from released))
    )
    select count(*)::integer as ended from released
  `.execute(trx)
  return rows[0]?.ended ?? 0
}

export type TemplateVersion = TemplateContent & {
  readonly id: string
  readonly version: number
  readonly name: string
  /** Names of the templates it renders or takes for its layout. */
  readonly uses: readonly string[]
}

export type WantedTemplate = {
  /** The id, the alias or the name a message gave. */
  readonly reference: string
  readonly id: string | null
  readonly version: number | null
}

/** The published version each reference means now: the one it names, or the latest. */
export async function findTemplates(
  db: Database,
  wanted: readonly WantedTemplate[],
): Promise<(TemplateVersion & { reference: string; wanted_version: number | null })[]> {
  const { rows } = await sql<TemplateVersion & { reference: string; wanted_version: number | null }>`
    /* processing.find_templates */
    select
      wanted.reference, wanted.version as wanted_version, t.id, t.name, v.version, v.subject, v.html, v.text,
      v.sender, v.reply_to, v.variables, v.is_strict, v.uses
    from json_to_recordset(${JSON.stringify(wanted)}::json) as wanted (reference text, id uuid, version integer)
    cross join lateral (
      select named.id, named.name
      from mail.template named
      where named.removed_at is null
        and (named.id = wanted.id or named.alias = wanted.reference or named.name = wanted.reference)
      order by (named.id = wanted.id) is true desc, (named.alias = wanted.reference) is true desc
      limit 1
    ) t
    cross join lateral (
      select *
      from mail.template_version published
      where published.template_id = t.id and published.published_at is not null
        and (wanted.version is null or published.version = wanted.version)
      order by published.version desc
      limit 1
    ) v
  `.execute(db)
  return rows
}

/** What processing made of one message. */
export type ProcessedRow = {
  readonly id: string
  readonly status: 'queued' | 'suppressed' | 'dead'
  readonly provider: string | null
  readonly template: string | null
  readonly template_version: number | null
  /** Versions of the templates that this one used, by name. */
  readonly partials: Readonly<Record<string, number>> | null
  readonly code: string | null
  readonly reason: string | null
  readonly recipient_domain: string | null
  readonly prepared: {
    readonly subject: string | null
    readonly html: string | null
    readonly text: string | null
    readonly left_out: readonly string[] | null
    /** The template's, when the message names none. */
    readonly sender: Address | null
    readonly reply_to: readonly Address[] | null
    readonly list_unsubscribe: string | null
    /** Of sensitive mail, in place of subject, html and text. */
    readonly sealed?: string
  } | null
}

/** A message that nothing was made of. */
export function deadRow(id: string, code: string, reason: string): ProcessedRow {
  return {
    ...{ id, code, reason, status: 'dead', provider: null, prepared: null },
    ...{ template: null, template_version: null, partials: null, recipient_domain: null },
  }
}

/**
 * Writes everything processing found out, in one statement, for the messages that still wait for it, with the jobs of those
 * that are to be sent; returns their ids. The rest were canceled, or processed by someone else, meanwhile. Throws when the queue
 * of a provider is not there yet.
 */
export async function storeProcessed(trx: Transaction, rows: readonly ProcessedRow[]): Promise<Set<string>> {
  const ids = rows.map((row) => row.id)
  const flat = rows.map(({ prepared, ...row }) => ({ ...row, is_prepared: prepared !== null, ...prepared }))
  const { rows: stored } = await sql<{ id: string; absent: string | null }>`/* processing.store */
    with row as materialized (
      select *
      from json_to_recordset(${JSON.stringify(flat)}::json) as row (
        id uuid, status text, provider text, template text, template_version integer, partials json,
        code text, reason text, recipient_domain text, is_prepared boolean, subject text, html text, text text,
        left_out text[], sender json, reply_to json, list_unsubscribe text, sealed text
      )
    ), stored as (
      update mail.message m
      set status = row.status,
        provider = row.provider,
        template = coalesce(row.template, m.template),
        template_version = row.template_version,
        last_error = row.code,
        queued_at = case row.status when 'queued' then clock_timestamp() end
      from row
      where m.id = row.id and m.id = any (${ids}::uuid[]) and ${isAccepted}
      returning m.id, m.stream, m.priority, m.source, m.template
    ), prepared as (
      insert into mail.message_prepared (id, subject, html, text, left_out, sender, reply_to, list_unsubscribe, sealed, key_id)
      select
        row.id, row.subject, row.html, row.text, row.left_out, row.sender, row.reply_to, row.list_unsubscribe,
        row.sealed, split_part(row.sealed, '.', 3)
      from row join stored using (id)
      where row.is_prepared
      -- A dead letter that is retried is processed anew.
      on conflict (id) do update
      set subject = excluded.subject, html = excluded.html, text = excluded.text, left_out = excluded.left_out,
        sender = excluded.sender, reply_to = excluded.reply_to, list_unsubscribe = excluded.list_unsubscribe,
        sealed = excluded.sealed, key_id = excluded.key_id
    ), dead as (
      insert into mail.dead_letter (
        message_id, stage, code, reason, stream, template, template_version, source, recipient_domain
      )
      select
        row.id, 'processing', row.code, row.reason, stored.stream, stored.template, row.template_version,
        stored.source, row.recipient_domain
      from row join stored using (id)
      where row.status = 'dead'
    ), left_out as (
      insert into mail.event (message_id, type, recipient)
      select row.id, 'suppressed', address
      from row join stored using (id) cross join unnest(row.left_out) as address
    ), happened as (
      insert into mail.event (message_id, type, detail)
      select
        row.id,
        row.status,
        case row.status
          when 'dead' then json_build_object('stage', 'processing', 'code', row.code)
          when 'queued' then json_strip_nulls(json_build_object(
            'provider', row.provider, 'template_version', row.template_version, 'partials', row.partials
          ))
        end
      from row join stored using (id)
    ), routed as (
      select row.id, 'dispatch.' || row.provider || '.' || stored.stream as queue, stored.priority
      from row join stored using (id)
      where row.status = 'queued'
    ), job as (
      -- The most urgent first: pg-boss fetches the highest number.
      insert into pgboss.job (id, name, priority, ${SETTINGS})
      select routed.id, q.name, 9 - routed.priority, ${SETTINGS_OF_QUEUE}
      from routed join pgboss.queue q on q.name = routed.queue
      on conflict do nothing
    )
    select
      id,
      (select min(queue) from routed where queue not in (select name from pgboss.queue)) as absent
    from stored
  `.execute(trx)
  const absent = stored[0]?.absent ?? null
  if (absent !== null) throw new Error(`the queue ${absent} is not there yet`)
  const kept = new Set(stored.map((row) => row.id))
  const over = rows.filter(({ id, status }) => status === 'suppressed' && kept.has(id)).map(({ id }) => id)
  if (over.length > 0) await removeContent(trx, over)
  return kept
}
