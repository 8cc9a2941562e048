/** The jobs of dispatch: found in their queues, taken from them, and put back. */
import { type RawBuilder, sql } from 'kysely'
import type { Transaction } from '../db/transaction.ts'
import type { Look } from '../queue/queue-front.ts'
import type { Turn } from './domain-limits.ts'

export type FetchedJob = {
  readonly id: string
  readonly retryCount: number
  readonly data: Turn | null
  readonly priority: number
  /** When it was put on the queue, in milliseconds by the database's clock. */
  readonly created_ms: number
}

/**
 * The next jobs of a queue, urgent first, as pg-boss's own fetch takes them; or from its front, a priority at a time, so that
 * each part is one range of the index, and the limit outside ends the search. The queue's name is part of the text, and so of
 * the prepared plan, which then knows a single table.
 */
function nextJobs(queue: string, look: Look, count: number, lock = sql``): RawBuilder<unknown> {
  const isReady = sql`name = ${sql.lit(queue)} and state < 'active' and not blocked and start_after <= now()`
  if (look.isWhole) {
    return sql`select id from pgboss.job where ${isReady} order by priority desc, created_on limit ${count} ${lock}`
  }
  const priorities = [...look.from.keys()].reverse()
  const since = priorities.map((priority) => momentOf(look.from[priority] ?? null))
  return sql`
    select job.id
    from unnest(${priorities}::integer[], ${since}::timestamptz[]) as front (priority, since)
    cross join lateral (
      select id
      from pgboss.job
      where ${isReady} and priority = front.priority and created_on >= front.since
      order by created_on
      limit ${count}
      ${lock}
    ) job
    limit ${count}`
}

function momentOf(ms: number | null): string {
  return ms === null ? '-infinity' : new Date(ms).toISOString()
}

/** As many rows as jobs wait in the queues, up to `count`: part of a statement. */
export function waitingJobs(
  queues: readonly { readonly queue: string; readonly look: Look }[],
  count: number,
): RawBuilder<unknown> {
  const each = queues.map(({ queue, look }) => sql`(${nextJobs(queue, look, count)})`)
  return sql`select from (${sql.join(each, sql` union all `)}) job limit ${count}`
}

/** Takes the next jobs, as pg-boss's own fetch does, which always begins at the very start of the queue. */
export async function fetchJobs(
  trx: Transaction,
  queue: string,
  count: number,
  look: Look,
): Promise<FetchedJob[]> {
  const { rows } = await sql<FetchedJob>`/* dispatch.fetch */
    with next as materialized (${nextJobs(queue, look, count, sql`for update skip locked`)})
    update pgboss.job
    set state = 'active', started_on = now(), heartbeat_on = now(),
      retry_count = case when started_on is not null then retry_count + 1 else retry_count end
    where name = ${sql.lit(queue)} and id = any (array(select id from next))
    returning id, data, retry_count as "retryCount", priority,
      extract(epoch from created_on)::double precision * 1000 as created_ms
  `.execute(trx)
  return rows
}

/** Jobs that were stored as fetched, and whose messages may not be sent now, wait after all. */
export async function unfetchJobs(trx: Transaction, queue: string, ids: readonly string[]): Promise<void> {
  await sql`/* dispatch.unfetch */
    update pgboss.job
    set state = 'created', started_on = null, heartbeat_on = null
    where name = ${sql.lit(queue)} and id = any (${ids}::uuid[]) and state = 'active'
  `.execute(trx)
}
