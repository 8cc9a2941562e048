import { reached } from '../crash-point.ts'
import type { Clock } from '../database-clock.ts'
import type { Database } from '../db/pool.ts'
import { inTransaction } from '../db/transaction.ts'
import { SendingHeldError } from '../lifeline.ts'
import type { Log } from '../log.ts'
import { Loop } from '../loop.ts'
import type { Bells } from '../queue/bells.ts'
import { type Boss, within } from '../queue/boss.ts'
import { webhookQueue } from '../queue/queues.ts'
import * as queries from './delivery-queries.ts'
import { deliveryOfJob, jobIdOf } from './job.ts'
import { postWebhook, type RequestDeps } from './request.ts'
import { type Answer, judge } from './verdict.ts'

/**
 * Tells one endpoint of events, from a queue and with slots of its own: one that is slow or hangs holds up nobody else.
 *
 * Takes in: jobs of `webhook.<endpoint>`, each a delivery. Leaves behind, in bundles of one transaction each: the
 * delivery told, given up, or waiting for its next attempt with a job for that moment; the attempt on record; how
 * the endpoint does.
 *
 * If the process dies
 * - between the claim and the last commit: upkeep gives the job back when the worker's session lock is gone, and the
 *   event is told again, whether or not the endpoint has it, under the same webhook-id;
 * - after that: done.
 *
 * If the database goes away and the process lives, outcomes are kept and written when it is back.
 */
const SLOTS = 10
const IDLE_MS = 1_000

export type DelivererDeps = RequestDeps & {
  readonly db: Database
  readonly boss: Boss
  readonly bells: Bells
  readonly log: Log
  readonly clock: Clock
  /** This worker's number, as registered now. */
  readonly worker: () => number
  readonly random: () => number
}

type Ended = { readonly outcome: queries.Outcome; readonly isGone: boolean }

export class Deliverer {
  readonly #deps: DelivererDeps
  readonly #endpoint: string
  readonly #queue: string
  readonly #loop: Loop
  readonly #abort = new AbortController()
  readonly #inFlight = new Map<string, Promise<void>>()
  #ended: readonly Ended[] = []
  /** The answer to the commit of a claim was lost: some jobs may be ours without our knowing. */
  #isInDoubt = false
  #isClosed = false

  constructor(deps: DelivererDeps, endpoint: string) {
    this.#deps = deps
    this.#endpoint = endpoint
    this.#queue = webhookQueue(endpoint)
    this.#loop = new Loop({
      name: this.#queue,
      log: deps.log,
      idleMs: IDLE_MS,
      round: () => this.#round(),
    })
    deps.bells.attach(this.#queue, this.#loop.bell)
  }

  /** It disabled its endpoint; a new one takes over should that be enabled again. */
  get isClosed(): boolean {
    return this.#isClosed
  }

  start(): void {
    this.#loop.start()
  }

  /** Claims no more and lets requests under way finish; those still open when `signal` fires are cut off. */
  async stop(signal: AbortSignal): Promise<void> {
    this.#isClosed = true
    signal.addEventListener('abort', () => this.#abort.abort())
    if (signal.aborted) this.#abort.abort()
    await this.#loop.stop()
    await Promise.all(this.#inFlight.values())
    try {
      await this.#settle()
    } catch (error) {
      this.#deps.log.warn({ queue: this.#queue, error }, 'outcomes of webhooks could not be written')
    }
  }

  async #round(): Promise<boolean> {
    await this.#settle()
    if (this.#isClosed) return false
    if (this.#isInDoubt) await this.#resolveDoubt()
    const free = SLOTS - this.#inFlight.size
    if (free === 0) return false
    try {
      return (await this.#claim(free)) === free
    } catch (error) {
      if (!(error instanceof SendingHeldError)) throw error
      this.#isInDoubt = false
      return false
    }
  }

  /** Returns how many jobs it took. */
  async #claim(count: number): Promise<number> {
    const { db, boss } = this.#deps
    const worker = this.#deps.worker()
    // Until its answer is here: a commit that is lost on the way may have happened.
    this.#isInDoubt = true
    const { jobs, claims } = await inTransaction(db, async (trx) => {
      const jobs = await boss.fetch(this.#queue, { batchSize: count, ...within(trx) })
      if (jobs.length === 0) return { jobs, claims: [] }
      const ids = jobs.map((job) => deliveryOfJob(job.id))
      const claims = await queries.claimDeliveries(trx, { queue: this.#queue, ids, worker })
      const known = new Set(claims.map(({ id }) => id))
      const idle = ids.filter((id) => !known.has(id))
      if (idle.length > 0) {
        await queries.releaseClaims(trx, this.#queue, idle)
        await boss.deleteJob(this.#queue, idle.map(jobIdOf), within(trx))
      }
      return { jobs, claims }
    })
    this.#isInDoubt = false
    if (claims.length > 0) reached('webhook.claimed')
    for (const claim of claims) this.#launch(claim, worker)
    return jobs.length
  }

  async #resolveDoubt(): Promise<void> {
    const worker = this.#deps.worker()
    const held = await queries.heldDeliveries(this.#deps.db, this.#queue, worker)
    this.#isInDoubt = false
    for (const claim of held) if (!this.#inFlight.has(claim.id)) this.#launch(claim, worker)
  }

  #launch(claim: queries.Claimed, worker: number): void {
    const telling = this.#tell(claim, worker).finally(() => {
      this.#inFlight.delete(claim.id)
      this.#loop.bell.ring()
    })
    this.#inFlight.set(claim.id, telling)
  }

  async #tell(claim: queries.Claimed, worker: number): Promise<void> {
    const at = new Date(this.#deps.clock.now())
    const startedAt = performance.now()
    const answer = await this.#answerTo(claim)
    reached('webhook.told')
    const { state, delayMs, isGone } = judge(answer, claim.tries, this.#deps.random)
    const { status, response, error, isAborted } = answer
    const outcome = {
      ...{ id: claim.id, worker, state, delay_ms: delayMs, counts: !isAborted, status, response, error },
      at: at.toISOString(),
      duration_ms: Math.round(performance.now() - startedAt),
    }
    this.#ended = [...this.#ended, { outcome, isGone }]
  }

  async #answerTo(claim: queries.Claimed): Promise<Answer> {
    try {
      return await postWebhook(this.#deps, claim, this.#abort.signal)
    } catch (error) {
      this.#deps.log.error({ queue: this.#queue, delivery: claim.id, error }, 'a webhook failed unforeseen')
      return { status: null, response: null, error: 'unforeseen; the log has the details', isAborted: false }
    }
  }

  /** Writes all that ended since; what cannot be written now is written with the next. */
  async #settle(): Promise<void> {
    const ended = this.#ended
    if (ended.length === 0) return
    const { db, boss } = this.#deps
    const reason = await inTransaction(db, async (trx) => {
      await queries.lockEndpoint(trx, this.#endpoint)
      const outcomes = ended.map(({ outcome }) => outcome)
      const mine = await queries.storeOutcomes(trx, this.#queue, outcomes)
      const kept = ended.filter(({ outcome }) => mine.has(outcome.id))
      if (kept.length === 0) return undefined
      await boss.deleteJob(
        this.#queue,
        kept.map(({ outcome }) => jobIdOf(outcome.id)),
        within(trx),
      )
      const again = kept.filter(({ outcome }) => outcome.delay_ms !== null)
      const jobs = again.map(({ outcome }) => ({
        id: jobIdOf(outcome.id),
        // Counted by the database, from its own clock.
        startAfter: `${(outcome.delay_ms ?? 0) / 1_000} seconds`,
      }))
      if (jobs.length > 0) await boss.insert(this.#queue, jobs, within(trx))
      const reason = await queries.noteHealth(trx, this.#endpoint, healthOf(kept))
      reached('webhook.before-commit')
      return reason
    })
    reached('webhook.committed')
    this.#ended = this.#ended.slice(ended.length)
    if (reason === undefined) return
    this.#isClosed = true
    this.#deps.log.error({ endpoint: this.#endpoint, reason }, 'a webhook endpoint was disabled')
  }
}

function healthOf(ended: readonly Ended[]): queries.Health {
  const failures = ended.filter(({ outcome }) => outcome.counts && outcome.state !== 'success')
  const last = failures.at(-1)?.outcome
  return {
    failures: failures.length,
    hasSucceeded: ended.some(({ outcome }) => outcome.state === 'success'),
    isGone: ended.some(({ isGone }) => isGone),
    firstFailureAt: failures[0]?.outcome.at ?? null,
    lastFailure: last === undefined ? null : (last.error ?? `status ${last.status}`),
  }
}
