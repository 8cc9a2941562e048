/** What is written at the end of a claim: what became of its messages, and that its jobs are done. */
import { type RawBuilder, sql } from 'kysely'
import { reached } from '../crash-point.ts'
import { registration } from '../db/registration.ts'
import { lastly, type Transaction } from '../db/transaction.ts'
import type { Address } from '../message/message.ts'
import { removeContent } from '../message-content.ts'
import { queueMissing, SETTINGS, SETTINGS_OF_QUEUE } from '../queue/job-settings.ts'
import { dispatchQueue, jobPriority } from '../queue/queues.ts'
import { isAccepted } from './queries.ts'

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

/** Jobs as they were claimed, to be ended. */
export type ClaimedJobs = {
  readonly queue: string
  readonly jobIds: readonly string[]
  readonly worker: number
  readonly isHanded: boolean
}

/**
 * What became of the claim on some jobs: they are ended, or were given back meanwhile, as this worker was taken for dead, or as
 * the lease on what was handed over was over.
 */
export type EndOfJobs = 'ended' | 'lost'

/**
 * Parts of a statement: `mine`, those of these jobs that are this worker's, and their end, of all or of none. Where something is
 * claimed after it, the worker's row in the register is locked before the claims, as by whoever rescues it.
 */
function endingJobs(claimed: ClaimedJobs, isClaimedAfter = false): RawBuilder<unknown> {
  const { queue, jobIds, worker, isHanded } = claimed
  const [me, myself] = isClaimedAfter
    ? [sql`me as materialized (${registration(worker)}),`, sql`(select number from me)`]
    : [sql``, sql`${worker}`]
  return sql`${me} mine as materialized (
      select job_id from mail.claim
      where queue = ${queue} and job_id = any (${jobIds}::uuid[]) and worker = ${myself} and (lease_until is not null) = ${isHanded}
      for update
    ), released as (
      delete from mail.claim
      where queue = ${queue} and job_id = any (${jobIds}::uuid[]) and ${allAreMine(claimed)}
    ), ended as (
      delete from pgboss.job
      where name = ${queue} and id = any (${jobIds}::uuid[]) and ${allAreMine(claimed)}
    )`
}

function allAreMine({ jobIds }: ClaimedJobs): RawBuilder<boolean> {
  return sql`(select count(*) from mine) = ${jobIds.length}`
}

/** A rescuer takes everything that a worker holds, and one job at most is handed over at once. */
function endOf({ jobIds }: ClaimedJobs, mine: number): EndOfJobs {
  if (mine !== jobIds.length && mine !== 0) throw new Error(`of ${jobIds.length} claims ${mine} were left`)
  return mine === 0 ? 'lost' : 'ended'
}

export async function endJobs(trx: Transaction, claimed: ClaimedJobs): Promise<EndOfJobs> {
  const { rows } = await sql<{ mine: number }>`/* processing.end_jobs */
    with ${endingJobs(claimed)}
    select count(*)::integer as mine from mine
  `.execute(trx)
  return endOf(claimed, rows[0]?.mine ?? 0)
}

export type Stored = {
  /** Of the claim, when one was to be ended; where it was lost, nothing is stored. */
  readonly end: EndOfJobs | undefined
  readonly ids: ReadonlySet<string>
  /** Ids of those with a new job. One that was withdrawn before may still have its old one, as nobody has met that since. */
  readonly jobs: readonly string[]
}

type Storing = {
  /** Ended with it. */
  readonly claim?: ClaimedJobs
  /** Nothing else is stored in the transaction, which ends with it. */
  readonly isLast?: boolean
  /** The jobs to send them are stored as fetched: they are claimed after it, in the same transaction. */
  readonly isFetched?: boolean
}

/**
 * Writes everything processing found out for the messages that still wait for it, with the jobs of those that are to be sent;
 * returns their ids. The rest were canceled, or processed by someone else, meanwhile. Throws when the queue of a provider is not there yet.
 */
export async function storeProcessed(
  trx: Transaction,
  rows: readonly ProcessedRow[],
  { claim, isLast = false, isFetched = false }: Storing = {},
): Promise<Stored> {
  const { end, marked } = await mark(trx, rows, { claim, isFetched })
  const kept = rows.flatMap((row) => {
    const message = marked.get(row.id)
    return message === undefined ? [] : [keptRow(row, message)]
  })
  const gone = kept.filter(({ status }) => status === 'suppressed').map(({ id }) => id)
  let jobs: readonly string[] = []
  if (kept.length > 0) {
    reached('processing.before-commit')
    jobs = await keep(trx, kept, { isLast: isLast && !isFetched && gone.length === 0, isFetched })
  }
  if (gone.length > 0) await removeContent(trx, gone)
  return { end, ids: new Set(marked.keys()), jobs }
}

type Marked = {
  readonly id: string
  readonly stream: string
  readonly priority: number
  readonly source: string
  readonly template: string | null
}

/**
 * Says of each message that still waits what has become of it. A statement of its own: for where the messages are it is planned each time,
 * and what is written beside them need not be.
 */
async function mark(
  trx: Transaction,
  rows: readonly ProcessedRow[],
  { claim, isFetched }: { readonly claim: ClaimedJobs | undefined; readonly isFetched: boolean },
): Promise<{ end: EndOfJobs | undefined; marked: ReadonlyMap<string, Marked> }> {
  const ids = rows.map((row) => row.id)
  const given = rows.map(({ id, status, provider, template, template_version, code }) => {
    return { id, status, provider, template, template_version, code }
  })
  const { rows: found } = await sql<
    (Marked | { readonly id: null }) & { readonly mine: number }
  >`/* processing.mark */
    with ${claim === undefined ? sql`mine as (select)` : endingJobs(claim, isFetched)}, row as materialized (
      select *
      from json_to_recordset(${JSON.stringify(given)}::json) as row (
        id uuid, status text, provider text, template text, template_version integer, code text
      )
      where ${claim === undefined ? sql`true` : allAreMine(claim)}
    ), marked as (
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
    )
    select here.mine, marked.*
    from (select count(*)::integer as mine from mine) here
    left join marked on true
  `.execute(trx)
  const marked = found.filter((row) => row.id !== null)
  return {
    end: claim && endOf(claim, found[0]?.mine ?? 0),
    marked: new Map(marked.map((row) => [row.id, row])),
  }
}

function keptRow({ prepared, ...row }: ProcessedRow, { stream, priority, source, template }: Marked) {
  const { status, provider } = row
  const job =
    status === 'queued' && provider !== null
      ? { queue: dispatchQueue(provider, stream), job_priority: jobPriority(priority) }
      : {}
  return { ...row, stream, source, template, is_prepared: prepared !== null, ...prepared, ...job }
}

/** As a job is that was fetched. */
const FETCHED = sql`state, started_on, heartbeat_on,`
const FETCHED_NOW = sql`'active'::pgboss.job_state, now(), now(),`

/** What is written beside the messages that were marked. Returns the ids of those that have a new job now. */
async function keep(
  trx: Transaction,
  rows: readonly ReturnType<typeof keptRow>[],
  { isLast, isFetched }: { readonly isLast: boolean; readonly isFetched: boolean },
): Promise<readonly string[]> {
  const [columns, values] = isFetched ? [FETCHED, FETCHED_NOW] : [sql``, sql``]
  const { rows: found } = await sql<{ jobs: string[] }>`/* processing.store */ ${isLast ? lastly : sql``}
    with row as materialized (
      select *
      from json_to_recordset(${JSON.stringify(rows)}::json) as row (
        id uuid, status text, provider text, stream text, source text, template text, template_version integer, partials json,
        code text, reason text, recipient_domain text, is_prepared boolean, subject text, html text, text text,
        left_out text[], sender json, reply_to json, list_unsubscribe text, sealed text, queue text, job_priority integer
      )
    ), prepared as (
      insert into mail.message_prepared (id, subject, html, text, left_out, sender, reply_to, list_unsubscribe, sealed, key_id)
      select id, subject, html, text, left_out, sender, reply_to, list_unsubscribe, sealed, split_part(sealed, '.', 3)
      from row
      where is_prepared
      -- A dead letter that is retried is processed anew.
      on conflict (id) do update
      set subject = excluded.subject, html = excluded.html, text = excluded.text, left_out = excluded.left_out,
        sender = excluded.sender, reply_to = excluded.reply_to, list_unsubscribe = excluded.list_unsubscribe,
        sealed = excluded.sealed, key_id = excluded.key_id
    ), dead as (
      insert into mail.dead_letter (
        message_id, stage, code, reason, stream, template, template_version, source, recipient_domain
      )
      select id, 'processing', code, reason, stream, template, template_version, source, recipient_domain
      from row
      where status = 'dead'
    ), left_out as (
      insert into mail.event (message_id, type, recipient)
      select id, 'suppressed', address from row cross join unnest(left_out) as address
    ), happened as (
      insert into mail.event (message_id, type, detail)
      select
        id,
        status,
        case status
          when 'dead' then json_build_object('stage', 'processing', 'code', code)
          when 'queued' then json_strip_nulls(json_build_object(
            'provider', provider, 'template_version', template_version, 'partials', partials
          ))
        end
      from row
    ), job as (
      insert into pgboss.job (id, name, priority, ${columns} ${SETTINGS})
      select row.id, q.name, row.job_priority, ${values} ${SETTINGS_OF_QUEUE}
      from row join pgboss.queue q on q.name = row.queue
      -- Jobs of one moment go in the order in which they were written.
      order by row.id
      on conflict do nothing
      returning id
    )
    select ${queueMissing(sql`select queue from row where queue is not null`)}, array(select id::text from job) as jobs
  `.execute(trx)
  return found[0]?.jobs ?? []
}
