import { reached } from '../crash-point.ts'
import type { Database } from '../db/pool.ts'
import { inTransaction, type Transaction } from '../db/transaction.ts'
import type { Log } from '../log.ts'
import type { Bells } from '../queue/bells.ts'
import { type Boss, within } from '../queue/boss.ts'
import { jobPriority } from '../queue/queues.ts'
import * as queries from './queries.ts'

export type RescueDeps = {
  readonly db: Database
  readonly boss: Boss
  readonly bells: Bells
  readonly log: Log
  readonly worker: () => number
}

/**
 * Gives the work of dead workers back. A worker is dead when its session lock has been free for a grace period.
 * Live workers are not touched: their sessions hold their locks; only what was handed over to them (queue/handover.ts) is
 * theirs for a time. One that only slept hands nothing over that it had claimed before (SAFE_MS in db/session.ts is less than
 * the grace).
 *
 * If the rescuer itself dies, its transaction is gone and the next one does it again.
 */
export class Rescuer {
  readonly #deps: RescueDeps

  constructor(deps: RescueDeps) {
    this.#deps = deps
  }

  /** One look at all other workers; returns how many of them live. */
  async look(): Promise<number> {
    const { db, worker } = this.#deps
    const others = await queries.probeWorkers(db, worker())
    // Each by itself: where workers die one after the other, what a rescuer has done stays done.
    for (const dead of others.filter((other) => other.is_dead)) {
      await inTransaction(db, async (trx) => {
        await this.#rescue(trx, dead)
        reached('rescue.before-commit')
      })
      reached('rescue.committed')
    }
    await this.#takeBackOverdue()
    return others.filter((other) => !other.lock_is_free).length
  }

  /** What was handed over and is not ended yet: the answer to its commit was lost, or it takes too long. */
  async #takeBackOverdue(): Promise<void> {
    const overdue = await inTransaction(this.#deps.db, async (trx) => {
      const claims = await queries.takeOverdue(trx)
      await this.#giveBack(trx, claims, 'not taken up')
      return claims
    })
    if (overdue.length > 0)
      this.#deps.log.warn({ jobs: overdue.length }, 'jobs were not taken up in time; they were given back')
  }

  async #giveBack(trx: Transaction, claims: readonly queries.HeldJob[], reason: string): Promise<void> {
    const { boss, bells } = this.#deps
    for (const [queue, held] of Map.groupBy(claims, (claim) => claim.queue)) {
      const ids = held.map((claim) => claim.job_id)
      await boss.fail(queue, ids, { reason }, within(trx))
      bells.ring(queue)
    }
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
    await this.#giveBack(trx, claims, 'worker died')
    const counts = Object.fromEntries(
      [...Map.groupBy(messages, (message) => message.status)].map(([status, rows]) => [status, rows.length]),
    )
    log.warn({ worker, name, messages: counts, jobs: claims.length }, 'worker died; its work was given back')
  }
}
