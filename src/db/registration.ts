import { sql } from 'kysely'

/**
 * A worker's row in the register, held until the transaction ends. Whoever claims work reads it, and whoever
 * rescues a dead worker deletes it first: so no claim can be committed under a number that nobody looks after. Both come to it
 * before they lock any claim: in two orders they could wait for each other.
 */
export function registration(worker: number) {
  return sql<{
    number: number
  }>`select number from mail.worker where number = ${worker}::integer for key share`
}

/** This worker was taken for dead and has not registered again yet. */
export class NotRegisteredError extends Error {
  readonly code = 'not_registered'
  readonly retryable = true

  constructor(worker: number) {
    super(`worker ${worker} is not registered any more; it claims again under its new number`)
    this.name = 'NotRegisteredError'
  }
}
