import { sql } from 'kysely'

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
