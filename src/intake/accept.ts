import { BriefMap } from '../brief-map.ts'
import { reached } from '../crash-point.ts'
import type { Database } from '../db/pool.ts'
import { ApiError } from '../errors.ts'
import type { Message } from '../message/message.ts'
import { isUrgent } from '../urgency.ts'
import { notAccepted, unavailable } from './acceptance-errors.ts'
import { Appender, FLUSH_CHARS } from './appender.ts'
import { type MoveOutcome, outcomeOf } from './idempotency.ts'
import { findMoved } from './moved-queries.ts'
import type { Hands, MoverLane } from './mover.ts'
import type * as queries from './queries.ts'

/**
 * Acceptance over REST. Whoever wants a durable answer hands the row to this process's mover and waits until it is
 * committed to a logged table. Whoever is content with less has its answer when the row is appended to the unlogged
 * intake, in one statement with those of all requests of the moment.
 *
 * If the process dies before the commit, or the append, nothing was accepted and nobody was told so. After it the mail
 * goes on, and a caller who saw its connection break may repeat with its idempotency key. If the wait ends without
 * news, the answer is 503, never a false "durable".
 */

/** Mail held for callers who wait: past it new mail is refused, or a database that hangs would fill the memory. */
const HELD_CHARS = 64 * 1_024 * 1_024
/** First look for a row that our own mover did not meet; doubles up to the last. */
const FIRST_LOOK_MS = 100
const LAST_LOOK_MS = 800

export type Accepted = {
  readonly id: string
  readonly durability: 'durable' | 'buffered'
  readonly isReplay: boolean
}

export type AcceptOptions = {
  /** True when the caller is content with an answer before the message is durable. */
  readonly mayBuffer: boolean
  /** For all of it: the wait for the append, and for the outcome. */
  readonly timeoutMs: number
}

type Waiter = {
  readonly row: queries.IntakeRow
  /** Undefined once the time is over. */
  readonly outcome: PromiseWithResolvers<MoveOutcome | undefined>
  readonly deadline: NodeJS.Timeout
  /** Since when it lies at a door, where others may take it. */
  appendedAt?: number
}

export class Acceptor {
  readonly #db: Database
  readonly #appender: Appender
  readonly #hands: Hands
  readonly #wakeMover: (lane: MoverLane) => void
  readonly #waiting = new BriefMap<string, Waiter>()
  #heldChars = 0
  #lookTimer: NodeJS.Timeout | undefined
  #lookMs = FIRST_LOOK_MS

  /** `process` is the name under which this process's mover takes its own rows first; `hands` are what it takes directly. */
  constructor(db: Database, process: string, hands: Hands, wakeMover: (lane: MoverLane) => void) {
    this.#db = db
    this.#hands = hands
    this.#wakeMover = wakeMover
    this.#appender = new Appender({ db, process, onAppended: () => wakeMover('doors') })
  }

  /** Throws an ApiError: 409 for a key used with another message, 503 when it could not be accepted in time. */
  async accept(row: queries.IntakeRow, { mayBuffer, timeoutMs }: AcceptOptions): Promise<Accepted> {
    const chars = row.message.length
    if (this.#heldChars > 0 && this.#heldChars + chars > HELD_CHARS) throw notAccepted()
    this.#heldChars += chars
    const waiter = startWaiting(row, timeoutMs)
    reached('intake.received')
    try {
      return await (mayBuffer ? this.#acceptEither(waiter) : this.#acceptDurably(waiter))
    } finally {
      clearTimeout(waiter.deadline)
      this.#heldChars -= chars
      this.#waiting.delete(row.id)
    }
  }

  async #acceptDurably(waiter: Waiter): Promise<Accepted> {
    const { row } = waiter
    this.#waiting.set(row.id, waiter)
    // What is urgent is not moved in company of hundreds that are not.
    const lane = isUrgent(row) ? 'urgent' : 'others'
    this.#hands[lane].add(row)
    this.#wakeMover(lane)
    const outcome = await waiter.outcome.promise
    if (outcome === undefined) throw this.#hands[lane].withdraw(row) ? notAccepted() : unavailable(undefined)
    reached('intake.before-answer')
    return answerOf(row, outcome)
  }

  async #acceptEither(waiter: Waiter): Promise<Accepted> {
    const { row } = waiter
    // With a key the caller wants to know what the key means, which only the mover can settle.
    const hasKey = row.idempotencyKey !== null
    if (hasKey) this.#waiting.set(row.id, waiter)
    const appended = this.#append(row).then(() => 'appended' as const)
    const first = await Promise.race([appended, waiter.outcome.promise])
    if (first === undefined) throw this.#appender.withdraw(row) ? notAccepted() : unavailable(undefined)
    const outcome = hasKey ? await waiter.outcome.promise : undefined
    if (outcome === undefined) return { id: row.id, durability: 'buffered', isReplay: false }
    reached('intake.before-answer')
    return answerOf(row, outcome)
  }

  async #append(row: queries.IntakeRow): Promise<void> {
    await this.#appender.append(row)
    const waiter = this.#waiting.get(row.id)
    if (waiter === undefined) return
    waiter.appendedAt = performance.now()
    this.#lookLater()
  }

  /** For what was handed over and is given up. */
  refuse(id: string, error: Error): void {
    this.#waiting.get(id)?.outcome.reject(error)
  }

  /** For what was handed over and has to go by the door after all. */
  queue(id: string): void {
    const waiter = this.#waiting.get(id)
    if (waiter !== undefined) this.#append(waiter.row).catch(waiter.outcome.reject)
  }

  /** A row whose caller waits here, as it was read at the door. */
  parsedOf(id: string): Message | undefined {
    return this.#waiting.get(id)?.row.parsed
  }

  isAwaited(id: string): boolean {
    return this.#waiting.has(id)
  }

  /** News from this process's mover. */
  settle(outcomes: ReadonlyMap<string, MoveOutcome>): void {
    for (const [id, outcome] of outcomes) this.#waiting.get(id)?.outcome.resolve(outcome)
  }

  /**
   * Our own mover answers within milliseconds. Rows at the door that stay unanswered were taken by another process,
   * or were part of a commit whose answer was lost: those are looked up, all in one statement.
   */
  #lookLater(): void {
    const appended = () => [...this.#waiting.values()].filter(({ appendedAt }) => appendedAt !== undefined)
    if (this.#lookTimer !== undefined || appended().length === 0) return
    this.#lookTimer = setTimeout(async () => {
      const overdue = appended().filter(
        ({ appendedAt = 0 }) => performance.now() - appendedAt >= FIRST_LOOK_MS,
      )
      try {
        if (overdue.length > 0) await this.#look(overdue)
        this.#lookMs = overdue.length > 0 ? Math.min(this.#lookMs * 2, LAST_LOOK_MS) : FIRST_LOOK_MS
      } catch {
        // Nothing learned: the callers go on waiting until their own time is over, and get their 503.
      } finally {
        this.#lookTimer = undefined
        this.#lookLater()
      }
    }, this.#lookMs)
  }

  async #look(overdue: readonly Waiter[]): Promise<void> {
    const found = await findMoved(this.#db, questionsOf(overdue))
    for (const row of found) this.#waiting.get(row.id)?.outcome.resolve(outcomeOf(row))
  }
}

/** What to ask of the database: about the oldest first, up to the size of one statement, and the others when these have their answer. */
function questionsOf(overdue: readonly Waiter[]): { id: string; key: string | null; message: string }[] {
  let chars = 0
  const asked = overdue.filter(({ row }) => {
    const isFirst = chars === 0
    chars += row.message.length
    return isFirst || chars <= FLUSH_CHARS
  })
  return asked.map(({ row }) => ({ id: row.id, key: row.idempotencyKey, message: row.message }))
}

function answerOf(row: queries.IntakeRow, outcome: MoveOutcome): Accepted {
  if (outcome.kind === 'conflict') {
    throw new ApiError(
      'invalid_idempotent_request',
      'This idempotency key was used before with a different request body. Use a new key for a new email.',
    )
  }
  if (outcome.kind === 'dead') throw new ApiError('validation_error', outcome.reason)
  if (outcome.kind === 'replayed') return { id: outcome.firstId, durability: 'durable', isReplay: true }
  return { id: row.id, durability: 'durable', isReplay: false }
}

function startWaiting(row: queries.IntakeRow, timeoutMs: number): Waiter {
  const outcome = Promise.withResolvers<MoveOutcome | undefined>()
  return { row, outcome, deadline: setTimeout(() => outcome.resolve(undefined), timeoutMs) }
}
