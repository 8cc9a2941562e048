import { reached } from '../crash-point.ts'
import type { Database } from '../db/pool.ts'
import { inTransaction } from '../db/transaction.ts'
import type { Bells } from '../queue/bells.ts'
import { type Boss, within } from '../queue/boss.ts'
import { FEEDBACK_QUEUE, type FeedbackJob } from '../queue/queues.ts'
import { type StoredDelivery, storeDeliveries } from './delivery-queries.ts'

/** One job: bounded by what a worker then holds of it at once. */
const BATCH_ROWS = 100
const BATCH_BYTES = 256 * 1_024
/** Past it deliveries are put off: a database that hangs must not fill the memory. Providers come again. */
const HELD_BYTES = 32 * 1_024 * 1_024

type Pending = { readonly delivery: StoredDelivery; readonly stored: PromiseWithResolvers<void> }

export type StoreDeps = { readonly db: Database; readonly boss: Boss; readonly bells: Bells }

/**
 * Stores verified deliveries: those of all requests of a moment in one transaction, together with the job to apply
 * them. Whoever was told that a delivery is stored may forget it: both are durable, or neither.
 */
export class FeedbackStore {
  readonly #deps: StoreDeps
  readonly #pending: Pending[] = []
  #heldBytes = 0
  #writing = false

  constructor(deps: StoreDeps) {
    this.#deps = deps
  }

  /** False when too much waits for the database already. Rejects when the database does not take it. */
  async add(delivery: StoredDelivery): Promise<boolean> {
    const bytes = delivery.body.length
    if (this.#heldBytes > 0 && this.#heldBytes + bytes > HELD_BYTES) return false
    this.#heldBytes += bytes
    try {
      const pending: Pending = { delivery, stored: Promise.withResolvers() }
      this.#pending.push(pending)
      if (!this.#writing) void this.#writeAll()
      await pending.stored.promise
      return true
    } finally {
      this.#heldBytes -= bytes
    }
  }

  /** One write at a time: whatever arrives meanwhile goes with the next, so batches grow with the load. */
  async #writeAll(): Promise<void> {
    this.#writing = true
    while (this.#pending.length > 0) {
      const batch = this.#pending.splice(0, this.#countForWrite())
      try {
        await this.#write(batch.map((each) => each.delivery))
        for (const each of batch) each.stored.resolve()
      } catch (error) {
        for (const each of batch) each.stored.reject(error)
      }
    }
    this.#writing = false
  }

  async #write(deliveries: readonly StoredDelivery[]): Promise<void> {
    const { db, boss, bells } = this.#deps
    const ids = await inTransaction(db, async (trx) => {
      const fresh = await storeDeliveries(trx, deliveries)
      const data: FeedbackJob = { ids: fresh }
      if (fresh.length > 0) await boss.insert(FEEDBACK_QUEUE, [{ data }], within(trx))
      reached('feedback.before-store-commit')
      return fresh
    })
    reached('feedback.stored')
    if (ids.length > 0) bells.ring(FEEDBACK_QUEUE)
  }

  #countForWrite(): number {
    let bytes = 0
    const overfull = this.#pending.slice(0, BATCH_ROWS).findIndex(({ delivery }) => {
      bytes += delivery.body.length
      return bytes > BATCH_BYTES
    })
    return overfull === -1 ? BATCH_ROWS : Math.max(overfull, 1)
  }
}
