import { type RawBuilder, sql } from 'kysely'

/**
 * What a job takes over from its queue, which pg-boss's own `insert` sees to: for jobs that are a part of a larger statement, as
 * that cannot be. `SETTINGS_OF_QUEUE` are the values, of a queue that the statement calls `q`.
 */
export const SETTINGS = sql.raw(
  'keep_until, retry_limit, retry_delay, retry_backoff, expire_seconds, deletion_seconds, policy',
)
export const SETTINGS_OF_QUEUE = sql.raw(
  'now() + make_interval(secs => q.retention_seconds), q.retry_limit, q.retry_delay, q.retry_backoff, q.expire_seconds, q.deletion_seconds, q.policy',
)

/** Ends the statement with an error unless all of these queues are there; `names` is a query of one column. */
export function queueMissing(names: RawBuilder<unknown>): RawBuilder<unknown> {
  return sql`mail.queue_missing((select min(name) from (${names}) as wanted (name) where name not in (select q.name from pgboss.queue q)))`
}
