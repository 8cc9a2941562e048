import { sqlState } from './sqlstate.ts'

/**
 * No connection could be had, it was lost, or the server did not answer in time; `cause` is the driver's
 * error, most of which carry no code. What was under way may have happened.
 */
export class ConnectionError extends Error {
  readonly code = 'connection_failed'
  readonly retryable = true

  constructor(cause: unknown) {
    super(cause instanceof Error ? cause.message : 'the connection to the database failed', { cause })
    this.name = 'ConnectionError'
  }
}

/**
 * SQLSTATEs by which the server says that it cannot do it now: connection, transaction rolled back (deadlock,
 * serialisation), out of resources, operator intervention (shutting down, starting, statement timeout), an error of the
 * system under it (its disk cannot be read or written).
 */
const UNAVAILABLE_CLASSES = new Set(['08', '40', '53', '57', '58'])
/** The session ended with it, or the whole server: in the middle of a commit, nobody knows what became of that. */
const ENDING = new Set(['FATAL', 'PANIC'])
/** read_only_sql_transaction: a standby that is not promoted yet; lock_not_available. */
const UNAVAILABLE_STATES = new Set(['25006', '55P03'])

/** True when the database is known to be the reason, and the same work may succeed a little later. */
export function isDatabaseUnavailable(error: unknown): boolean {
  if (error instanceof ConnectionError) return true
  const { severity } = (error ?? {}) as { severity?: unknown }
  if (typeof severity === 'string' && ENDING.has(severity)) return true
  const state = sqlState(error)
  return state !== undefined && (UNAVAILABLE_CLASSES.has(state.slice(0, 2)) || UNAVAILABLE_STATES.has(state))
}
