import type { Transaction } from '../db/transaction.ts'
import { MOST_HANDED } from './handover.ts'

/**
 * From processing to dispatch within one process, past the queue: few messages, made ready for a provider that has nothing to do, are
 * claimed for sending in the very transaction that makes them ready, and not looked for and claimed in another one. There is no lease: a
 * message says who has claimed it, and when, and where the answer to the commit is lost the dispatcher asks.
 */
export class Outlets {
  readonly #outlets = new Map<string, Outlet>()

  attach(queue: string, outlet: Outlet): void {
    this.#outlets.set(queue, outlet)
  }

  /** Room for so many messages of a dispatch queue; undefined when they better wait there. */
  reserve(queue: string, messages: number): Passage | undefined {
    return messages <= MOST_HANDED ? this.#outlets.get(queue)?.reserve(messages) : undefined
  }
}

export type Outlet = {
  reserve(messages: number): Passage | undefined
}

/** Room that is kept for messages until `end`. */
export type Passage = {
  /** Claims those that may be sent at this moment; their jobs were stored as fetched in the same transaction. */
  claim(trx: Transaction, ids: readonly string[]): Promise<void>
  /** Once the transaction has ended: what was claimed in it is sent. After a failure it is found out first whether it was committed. */
  end(how: 'committed' | 'failed'): void
}
