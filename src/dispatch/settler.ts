import { setTimeout as delay } from 'node:timers/promises'
import { reached } from '../crash-point.ts'
import type { Clock } from '../database-clock.ts'
import type { Database } from '../db/pool.ts'
import { isLastingFault } from '../db/sqlstate.ts'
import { inTransaction } from '../db/transaction.ts'
import type { Log } from '../log.ts'
import { removeContent } from '../message-content.ts'
import type { Meter, Place } from '../meter.ts'
import { type Boss, within } from '../queue/boss.ts'
import { jobPriority } from '../queue/queues.ts'
import { measureOutcomes } from './measure-outcomes.ts'
import * as queries from './queries.ts'
import { refusalsOf } from './suppression.ts'

/** One outcome to be written, with the job it settles. */
export type Outcome = {
  readonly queue: string
  readonly job: { readonly id: string; readonly retryCount: number }
  readonly priority: number
  readonly worker: number
  readonly settlement: queries.Settlement
  readonly place: Place
  /** Since it was to be sent: its acceptance, the moment it was scheduled for, or the opening of its window. */
  readonly dueAt: Date
  /** When the provider had answered. */
  readonly endedAt: Date
  /** Without the words of the provider, which could not be stored. */
  readonly isWordless?: true
}

type SettlerDeps = {
  readonly db: Database
  readonly boss: Boss
  readonly log: Log
  readonly meter: Meter
  readonly clock: Clock
}

const BUNDLE = 500
/** When the one before is so young, the next bundle waits for so long to grow. */
const GATHER_MS = 5
const RETRY_PAUSE_MS = 250
/** At stop, sends are cut off at the limit: what became of them still needs to be written. */
const LAST_WRITE_MS = 2_000

/**
 * Writes what became of each send, in bundles: the first outcome is written at once, and whatever arrives
 * while that commit is under way, and in the moment after it, goes with the next one. An idle system settles
 * at once, a busy one in large bundles. Outcomes are facts about the world: when the database is away they are
 * kept and written when it is back.
 */
export class Settler {
  readonly #db: Database
  readonly #boss: Boss
  readonly #log: Log
  readonly #meter: Meter
  readonly #clock: Clock
  #waiting: Outcome[] = []
  #writing: Promise<void> | undefined
  #limit: AbortSignal | undefined
  /** By performance.now(). */
  #wroteAt = Number.NEGATIVE_INFINITY

  constructor({ db, boss, log, meter, clock }: SettlerDeps) {
    this.#db = db
    this.#boss = boss
    this.#log = log
    this.#meter = meter
    this.#clock = clock
  }

  /** Outcomes that are not written yet. Whoever sees many of them claims no more: all would be unknown if we died. */
  get backlog(): number {
    return this.#waiting.length
  }

  add(outcome: Outcome): void {
    this.#waiting.push(outcome)
    this.#writing ??= this.#write()
  }

  /** True when everything is written; false when `limit` has passed and the database did not take it. */
  async finish(limit: AbortSignal): Promise<boolean> {
    this.#limit = limit
    let timer: NodeJS.Timeout | undefined
    const tooLate = new Promise<void>((resolve) => {
      const wait = () => {
        timer = setTimeout(resolve, LAST_WRITE_MS)
      }
      if (limit.aborted) wait()
      else limit.addEventListener('abort', wait)
    })
    const written = this.#writing?.then(() => this.#waiting.length === 0) ?? Promise.resolve(true)
    const isWritten = await Promise.race([written, tooLate.then(() => false)])
    clearTimeout(timer)
    return isWritten
  }

  async #write(): Promise<void> {
    let failures = 0
    /** So many at the front failed together, and one of them may be what the database refuses: one by one they find out. */
    let suspects = 0
    while (this.#waiting.length > 0) {
      if (suspects === 0 && performance.now() - this.#wroteAt < GATHER_MS) await delay(GATHER_MS)
      const bundle = this.#waiting.splice(0, suspects > 0 ? 1 : BUNDLE)
      try {
        await this.#writeBundle(bundle)
        this.#wroteAt = performance.now()
        failures = 0
        suspects = Math.max(0, suspects - 1)
      } catch (error) {
        const isLasting = isLastingFault(error)
        if (isLasting && bundle.length === 1) {
          const left = bundle.flatMap((outcome) => this.#reduced(outcome, error))
          this.#waiting.unshift(...left)
          suspects = Math.max(0, suspects - 1) + left.length
          continue
        }
        this.#waiting.unshift(...bundle)
        if (isLasting) suspects = bundle.length
        this.#log[failures === 0 ? 'warn' : 'debug'](
          { error, outcomes: this.#waiting.length },
          'could not settle yet',
        )
        failures += 1
        if (this.#limit?.aborted) break
        await delay(RETRY_PAUSE_MS)
      }
    }
    this.#writing = undefined
  }

  /** What the provider said may not be storable; what became of the message is. One that is not even then must not hold up the others. */
  #reduced(outcome: Outcome, error: unknown): Outcome[] {
    const message = outcome.settlement.id
    if (outcome.isWordless) {
      this.#log.error(
        { message, error },
        'outcome cannot be stored: the message stays as being sent until this worker ends',
      )
      return []
    }
    this.#log.error({ message, error }, 'outcome cannot be stored with its words')
    return [withoutWords(outcome)]
  }

  async #writeBundle(bundle: readonly Outcome[]): Promise<void> {
    reached('settle.begun')
    // Almost always one worker number; two when this process registered again in between.
    for (const [worker, outcomes] of Map.groupBy(bundle, (outcome) => outcome.worker)) {
      const settled = await inTransaction(this.#db, async (trx) => {
        const settled = await queries.storeSettlements(
          trx,
          outcomes.map((outcome) => outcome.settlement),
          worker,
        )
        const ids = new Set(settled.map(({ id }) => id))
        const bare = settled.filter((each) => each.is_content_over).map(({ id }) => id)
        if (bare.length > 0) await removeContent(trx, bare)
        const ours = outcomes.filter((outcome) => ids.has(outcome.settlement.id))
        const refusals = refusalsOf(
          ours.map(({ settlement }) => settlement),
          new Date(this.#clock.now()),
        )
        if (refusals.length > 0) await queries.suppressRefused(trx, refusals)
        for (const [queue, jobs] of Map.groupBy(ours, (outcome) => outcome.queue)) {
          await this.#boss.deleteJob(
            queue,
            jobs.map(({ job }) => job),
            within(trx),
          )
          const again = jobs.filter(({ settlement }) => settlement.status === 'deferred').map(jobAgain)
          if (again.length > 0) await this.#boss.insert(queue, again, within(trx))
        }
        reached('settle.before-commit')
        return ids
      })
      reached('settle.committed')
      this.#report(outcomes, settled)
      measureOutcomes(
        this.#meter,
        outcomes.filter(({ settlement }) => settled.has(settlement.id)),
      )
    }
  }

  #report(outcomes: readonly Outcome[], settled: ReadonlySet<string>): void {
    for (const { settlement } of outcomes) {
      const { id: message, attempt, code } = settlement
      if (!settled.has(message)) {
        this.#log.warn({ message, attempt }, 'outcome came too late: the message was given to someone else')
      } else if (settlement.status === 'dead') {
        this.#log.warn({ message, stage: 'dispatch', code, attempt }, 'message is dead')
      } else if (settlement.status === 'unknown') {
        this.#log.warn({ message, code, attempt }, 'outcome of a send is unknown')
      }
    }
  }
}

function withoutWords(outcome: Outcome): Outcome {
  const { settlement } = outcome
  const events = settlement.events.map(({ type }) => ({ type }))
  const reason = settlement.reason === null ? null : 'The reply cannot be stored; the log has the details.'
  return {
    ...outcome,
    isWordless: true,
    settlement: {
      ...settlement,
      providerMessageId: null,
      providerRef: null,
      reason,
      delayMs: settlement.delayMs && 1_000,
      events,
    },
  }
}

/** pg-boss has no snooze: a deferred message gets a new job of the same id, in the same transaction. */
function jobAgain({ settlement, priority }: Outcome) {
  return {
    id: settlement.id,
    priority: jobPriority(priority),
    startAfter: `${(settlement.delayMs ?? 0) / 1_000} seconds`,
  }
}
