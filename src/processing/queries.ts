import { sql } from 'kysely'
import type { Database } from '../db/pool.ts'
import { NotRegisteredError, registration } from '../db/registration.ts'
import { relaxed } from '../db/relaxed.ts'
import type { Transaction } from '../db/transaction.ts'
import { unforeseen } from '../db/unforeseen.ts'
import type { Message, StoredAttachment } from '../message/message.ts'
import type { TemplateContent } from '../templates/template-content.ts'

export const isAccepted = unforeseen(sql`m.status = 'accepted'`)

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
    on conflict (queue, job_id) do update
    set worker = excluded.worker, claimed_at = excluded.claimed_at, lease_until = excluded.lease_until
    returning 1
  `.execute(trx)
  if (rows.length === 0) throw new NotRegisteredError(worker)
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
