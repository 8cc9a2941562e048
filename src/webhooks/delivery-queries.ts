import { sql } from 'kysely'
import type { Database } from '../db/pool.ts'
import { NotRegisteredError, registration } from '../db/registration.ts'
import { relaxed } from '../db/relaxed.ts'
import type { Transaction } from '../db/transaction.ts'
import { SendingHeldError, sendingGate } from '../lifeline.ts'

/** A delivery in hand: all that its request needs. */
export type Claimed = {
  readonly id: string
  readonly url: string
  readonly body: string
  /** Requests made for it in this run of the schedule. */
  readonly tries: number
  readonly secrets: readonly string[]
}

const claimed = sql`
  d.id, d.payload::text as body, d.tries, e.url, (
    select coalesce(array_agg(s.secret order by s.number desc), '{}')
    from mail.webhook_secret s
    where s.endpoint_id = e.id and (s.expires_at is null or s.expires_at > now())
  ) as secrets`

/**
 * Notes that this worker has these jobs in hand, so that they are given back when it dies, and returns what they
 * are to tell. Throws a NotRegisteredError when this worker was taken for dead, a SendingHeldError while nobody
 * is told anything.
 */
export async function claimDeliveries(
  trx: Transaction,
  { queue, ids, worker }: { queue: string; ids: readonly string[]; worker: number },
): Promise<Claimed[]> {
  // One row without an id when we are registered and there is nothing to tell.
  const { rows } = await sql<
    (Claimed | { readonly id: null }) & { readonly is_open: boolean }
  >`/* webhooks.claim */
    with me as materialized (${registration(worker)}),
    gate as materialized (${sendingGate}),
    ${relaxed},
    taken as (
      insert into mail.claim (queue, job_id, worker)
      select ${queue}, substr(id, 5)::uuid, me.number
      from me cross join gate cross join relaxed cross join unnest(${ids}::text[]) as id
      where gate.is_open
      on conflict (queue, job_id) do update set worker = excluded.worker
    )
    select gate.is_open, ${claimed}
    from me
    cross join gate
    left join (
      mail.webhook_delivery d
      join mail.webhook_endpoint e on e.id = d.endpoint_id
    ) on d.id = any (${ids}::text[])
  `.execute(trx)
  if (rows.length === 0) throw new NotRegisteredError(worker)
  if (rows[0]?.is_open !== true) throw new SendingHeldError()
  return rows.filter((row) => row.id !== null)
}

/** What this worker holds of a queue: after a claim whose commit was never answered. */
export async function heldDeliveries(db: Database, queue: string, worker: number): Promise<Claimed[]> {
  const { rows } = await sql<Claimed>`/* webhooks.held */
    select ${claimed}
    from mail.claim c
    join mail.webhook_delivery d on d.id = 'msg_' || replace(c.job_id::text, '-', '')
    join mail.webhook_endpoint e on e.id = d.endpoint_id
    where c.queue = ${queue} and c.worker = ${worker}
  `.execute(db)
  return rows
}

export async function releaseClaims(trx: Transaction, queue: string, ids: readonly string[]): Promise<void> {
  await sql`/* webhooks.release */
    delete from mail.claim
    where queue = ${queue} and job_id in (select substr(id, 5)::uuid from unnest(${ids}::text[]) as id)
  `.execute(trx)
}

/** What one request came to, as it is written. */
export type Outcome = {
  readonly id: string
  readonly worker: number
  readonly state: 'success' | 'attempting' | 'failed'
  /** Until the next attempt; null when there is none. */
  readonly delay_ms: number | null
  /** False: nothing came of it, because we were stopping. */
  readonly counts: boolean
  /** ISO 8601. */
  readonly at: string
  readonly duration_ms: number
  readonly status: number | null
  readonly response: string | null
  readonly error: string | null
}

/**
 * Writes what these requests came to; returns the ids that were still this worker's. Those given to another meanwhile,
 * and those whose endpoint was removed, are left alone.
 */
export async function storeOutcomes(
  trx: Transaction,
  queue: string,
  outcomes: readonly Outcome[],
): Promise<Set<string>> {
  const ids = outcomes.map(({ id }) => id)
  const { rows } = await sql<{ id: string }>`/* webhooks.store_outcomes */
    with outcome as materialized (
      select *
      from json_to_recordset(${JSON.stringify(outcomes)}::json) as o (
        id text, worker integer, state text, delay_ms double precision, counts boolean, at timestamptz,
        duration_ms integer, status integer, response text, error text
      )
    ), mine as (
      delete from mail.claim c
      using outcome o
      where c.queue = ${queue} and c.job_id = substr(o.id, 5)::uuid and c.worker = o.worker
      returning o.id
    ), told as (
      update mail.webhook_delivery d
      set state = o.state, attempts = d.attempts + 1, tries = d.tries + 1, last_attempt_at = o.at,
        last_status = o.status, last_error = o.error,
        next_attempt_at = clock_timestamp() + make_interval(secs => o.delay_ms / 1000)
      from outcome o
      join mine using (id)
      where d.id = o.id and d.id = any (${ids}::text[]) and o.counts
      returning d.id, d.attempts
    ), recorded as (
      insert into mail.webhook_attempt (delivery_id, number, at, duration_ms, status, response, error)
      select told.id, told.attempts, o.at, o.duration_ms, o.status, o.response, o.error
      from told join outcome o using (id)
    ), trimmed as (
      delete from mail.webhook_attempt a using told
      where a.delivery_id = told.id and a.delivery_id = any (${ids}::text[]) and a.number <= told.attempts - 20
    )
    select id from mine
  `.execute(trx)
  return new Set(rows.map(({ id }) => id))
}

/**
 * Before anything of the endpoint is changed: whoever removes it or replays its deliveries has this lock first as well,
 * so that none of them waits for another in a circle.
 */
export async function lockEndpoint(trx: Transaction, endpoint: string): Promise<void> {
  await sql`/* webhooks.lock_endpoint */
    select from mail.webhook_endpoint where id = ${endpoint}::uuid for no key update
  `.execute(trx)
}

export type Health = {
  readonly failures: number
  readonly hasSucceeded: boolean
  readonly isGone: boolean
  readonly firstFailureAt: string | null
  readonly lastFailure: string | null
}

/** Five days of nothing but failures: nobody is there, or nobody cares. */
const GIVE_UP_AFTER = sql`interval '5 days'`

/** How an endpoint does; returns why it is disabled, when this disabled it. */
export async function noteHealth(
  trx: Transaction,
  endpoint: string,
  { failures, hasSucceeded, isGone, firstFailureAt, lastFailure }: Health,
): Promise<string | undefined> {
  const { rows } = await sql<{ disabled_reason: string | null }>`/* webhooks.note_health */
    with known as materialized (
      select id, status, failing_since from mail.webhook_endpoint where id = ${endpoint}::uuid
    ), now_failing as (
      select
        id, status,
        case when not ${hasSucceeded}::boolean then coalesce(failing_since, ${firstFailureAt}::timestamptz) end as since
      from known
    ), verdict as (
      select
        id, since,
        case
          when status = 'disabled' then null
          when ${isGone}::boolean then 'it answered 410 Gone'
          when since < clock_timestamp() - ${GIVE_UP_AFTER} and ${failures}::integer > 0 then
            format('every request since %s failed, the latest: %s', since, ${lastFailure}::text)
        end as reason
      from now_failing
    )
    update mail.webhook_endpoint e
    set failures = case when ${hasSucceeded}::boolean then 0 else e.failures + ${failures}::integer end,
      failing_since = verdict.since,
      last_failure = coalesce(${lastFailure}::text, e.last_failure),
      status = case when verdict.reason is null then e.status else 'disabled' end,
      disabled_at = case when verdict.reason is null then e.disabled_at else clock_timestamp() end,
      disabled_reason = coalesce(verdict.reason, e.disabled_reason)
    from verdict
    where e.id = verdict.id and (${failures}::integer > 0 or e.failing_since is not null)
    returning verdict.reason as disabled_reason
  `.execute(trx)
  return rows[0]?.disabled_reason ?? undefined
}
