import { reached } from '../crash-point.ts'
import type { Database } from '../db/pool.ts'
import { inTransaction, type Transaction } from '../db/transaction.ts'
import type { Log } from '../log.ts'
import type { Bells } from '../queue/bells.ts'
import { type Boss, within } from '../queue/boss.ts'
import { jobPriority } from '../queue/queues.ts'
import * as queries from './queries.ts'

/**
 * Gives the work of dead workers back. A worker is dead when its session lock has been free for a grace
 * period: long enough for a living one to come back after a restart of Postgres, short enough that its
 * mail moves again within seconds. Live workers are not touched: their sessions hold their locks. One that only slept
 * hands nothing over that it had claimed before (SAFE_MS in db/session.ts is less than the grace).
 *
 * If the rescuer itself dies, its transaction is gone and the next one does it all again.
 */
const GRACE_MS = 3_000

export type RescueDeps = {
  readonly db: Database
  readonly boss: Boss
  readonly bells: Bells
  readonly log: Log
  readonly worker: () => number
  readonly now: () => number
}

export class Rescuer {
  readonly #deps: RescueDeps
  /** When each worker's lock was first found free, and has not been taken since. */
  readonly #free = new Map<number, { readonly since: number; readonly seenAt: string }>()

  constructor(deps: RescueDeps) {
    this.#deps = deps
  }

  /** One look at all other workers; returns how many of them live. */
  async look(): Promise<number> {
    const { db, now } = this.#deps
    let hasRescued = false
    const living = await inTransaction(db, async (trx) => {
      const others = await queries.probeWorkers(trx, this.#deps.worker())
      const free = others.filter((other) => other.lock_is_free)
      for (const number of this.#free.keys()) {
        if (!free.some((other) => other.number === number)) this.#free.delete(number)
      }
      for (const worker of free) {
        const known = this.#free.get(worker.number)
        const since = known?.seenAt === worker.seen_at ? known.since : now()
        this.#free.set(worker.number, { since, seenAt: worker.seen_at })
        if (now() - since < GRACE_MS) continue
        await this.#rescue(trx, worker)
        hasRescued = true
      }
      if (hasRescued) reached('rescue.before-commit')
      return others.length - free.length
    })
    if (hasRescued) reached('rescue.committed')
    return living
  }

  async #rescue(trx: Transaction, dead: queries.OtherWorker): Promise<void> {
    const { boss, bells, log } = this.#deps
    // First: it waits for claims under way, and any after it find that the number is gone.
    if (!(await queries.forgetWorker(trx, dead))) return
    const { number: worker, name } = dead
    const messages = await queries.rescueMessages(trx, worker)
    for (const [queue, lost] of Map.groupBy(messages, (message) => message.queue)) {
      await boss.deleteJob(
        queue,
        lost.map((message) => message.id),
        within(trx),
      )
      const again = lost.filter((message) => message.status === 'queued')
      const jobs = again.map(({ id, priority }) => ({ id, priority: jobPriority(priority) }))
      if (jobs.length > 0) await boss.insert(queue, jobs, within(trx))
      bells.ring(queue)
    }
    const claims = await queries.takeClaims(trx, worker)
    for (const [queue, held] of Map.groupBy(claims, (claim) => claim.queue)) {
      await boss.fail(
        queue,
        held.map((claim) => claim.job_id),
        { reason: 'worker died' },
        within(trx),
      )
      bells.ring(queue)
    }
    const counts = Object.fromEntries(
      [...Map.groupBy(messages, (message) => message.status)].map(([status, rows]) => [status, rows.length]),
    )
    log.warn({ worker, name, messages: counts, jobs: claims.length }, 'worker died; its work was given back')
  }
}
