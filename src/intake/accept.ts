import { reached } from '../crash-point.ts'
import { isDatabaseUnavailable } from '../db/connection-error.ts'
import type { Database } from '../db/pool.ts'
import { ApiError } from '../errors.ts'
import type { Message } from '../message/message.ts'
import { CONFLICT_CODE, type MoveOutcome } from './idempotency.ts'
import * as queries from './queries.ts'

/**
 * Acceptance over REST: rows from all requests of a moment are appended to the unlogged intake in one
 * statement, and durable answers wait until a mover has committed them to a logged table.
 *
 * If the process dies before the append, nothing was accepted and nobody was told so. After it, the rows
 * are in the intake and any mover takes them: the caller, who saw its connection break, may repeat with
 * its idempotency key. If the wait ends without news, the answer is 503, never a false "durable".
 */

const FLUSH_ROWS = 500
/** One statement is one string: a burst of large mail must not grow it past what can be held. */
const FLUSH_CHARS = 16 * 1_024 * 1_024
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

type Pending = {
  readonly row: queries.IntakeRow
  readonly appended: PromiseWithResolvers<void>
}

type Waiter = {
  readonly row: queries.IntakeRow
  readonly moved: PromiseWithResolvers<MoveOutcome>
  readonly since: number
}

export class Acceptor {
  readonly #db: Database
  readonly #process: string
  readonly #wakeMover: () => void
  readonly #pending: Pending[] = []
  readonly #waiting = new Map<string, Waiter>()
  #heldChars = 0
  #flushing = false
  #lookTimer: NodeJS.Timeout | undefined
  #lookMs = FIRST_LOOK_MS

  /** `process` is the name under which this process's mover takes its own rows first. */
  constructor(db: Database, process: string, wakeMover: () => void) {
    this.#db = db
    this.#process = process
    this.#wakeMover = wakeMover
  }

  /** Throws an ApiError: 409 for a key used with another message, 503 when it could not be accepted in time. */
  async accept(row: queries.IntakeRow, options: AcceptOptions): Promise<Accepted> {
    const chars = row.message.length
    if (this.#heldChars > 0 && this.#heldChars + chars > HELD_CHARS) throw notAccepted()
    this.#heldChars += chars
    const deadline = startDeadline(options.timeoutMs)
    try {
      return await this.#acceptBefore(deadline.passed, row, options)
    } finally {
      deadline.clear()
      this.#heldChars -= chars
      this.#waiting.delete(row.id)
    }
  }

  async #acceptBefore(
    deadline: Promise<undefined>,
    row: queries.IntakeRow,
    { mayBuffer }: AcceptOptions,
  ): Promise<Accepted> {
    const buffered = { id: row.id, durability: 'buffered', isReplay: false } as const
    // With a key the caller wants to know what the key means, which only the mover can settle.
    reached('intake.received')
    const waits = !mayBuffer || row.idempotencyKey !== null
    const waiter: Waiter | undefined = waits
      ? { row, moved: Promise.withResolvers(), since: performance.now() }
      : undefined
    if (waiter !== undefined) this.#waiting.set(row.id, waiter)
    const isAppended = await Promise.race([this.#append(row).then(() => true), deadline])
    if (isAppended === undefined) throw this.#withdraw(row) ? notAccepted() : unavailable(undefined)
    if (waiter === undefined) return buffered
    this.#lookLater()
    const outcome = await Promise.race([waiter.moved.promise, deadline])
    if (outcome === undefined && mayBuffer) return buffered
    reached('intake.before-answer')
    return this.#answer(row, outcome)
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
    for (const [id, outcome] of outcomes) this.#waiting.get(id)?.moved.resolve(outcome)
  }

  #append(row: queries.IntakeRow): Promise<void> {
    const pending: Pending = { row, appended: Promise.withResolvers() }
    this.#pending.push(pending)
    if (!this.#flushing) void this.#flush()
    return pending.appended.promise
  }

  /** True when the row had not left for the database: nobody will send it. */
  #withdraw(row: queries.IntakeRow): boolean {
    const index = this.#pending.findIndex((each) => each.row === row)
    if (index >= 0) this.#pending.splice(index, 1)
    return index >= 0
  }

  /** One append at a time: whatever arrives meanwhile goes with the next, so batches grow with the load. */
  async #flush(): Promise<void> {
    this.#flushing = true
    while (this.#pending.length > 0) {
      const batch = this.#pending.splice(0, this.#countForFlush())
      try {
        await queries.appendToIntake(
          this.#db,
          batch.map((each) => each.row),
          this.#process,
        )
        reached('intake.appended')
        this.#wakeMover()
        for (const each of batch) each.appended.resolve()
      } catch (error) {
        const refusal = isDatabaseUnavailable(error) ? unavailable(error) : error
        for (const each of batch) each.appended.reject(refusal)
      }
    }
    this.#flushing = false
  }

  #countForFlush(): number {
    let chars = 0
    const overfull = this.#pending.slice(0, FLUSH_ROWS).findIndex(({ row }) => {
      chars += row.message.length
      return chars > FLUSH_CHARS
    })
    return overfull === -1 ? FLUSH_ROWS : Math.max(overfull, 1)
  }

  #answer(row: queries.IntakeRow, outcome: MoveOutcome | undefined): Accepted {
    if (outcome === undefined) {
      throw unavailable(undefined)
    }
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

  /**
   * Our own mover answers within milliseconds. Rows that stay unanswered were taken by another process,
   * or were part of a commit whose answer was lost: those are looked up, all in one statement.
   */
  #lookLater(): void {
    if (this.#lookTimer !== undefined || this.#waiting.size === 0) return
    this.#lookTimer = setTimeout(async () => {
      const overdue = [...this.#waiting.values()].filter(
        (each) => performance.now() - each.since >= FIRST_LOOK_MS,
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
    const found = await queries.findMoved(this.#db, questionsOf(overdue))
    for (const row of found) this.#waiting.get(row.id)?.moved.resolve(outcomeOf(row))
  }
}

/**
 * What to ask of the database about each. A body is compared only under a key, and those of the oldest go
 * first, up to the size of one statement: the others are asked about when these have their answer.
 */
function questionsOf(overdue: readonly Waiter[]): { id: string; key: string | null; message: string }[] {
  let chars = 0
  const asked = overdue.filter(({ row }) => {
    if (row.idempotencyKey === null) return true
    const isFirst = chars === 0
    chars += row.message.length
    return isFirst || chars <= FLUSH_CHARS
  })
  return asked.map(({ row }) => ({
    id: row.id,
    key: row.idempotencyKey,
    message: row.idempotencyKey === null ? 'null' : row.message,
  }))
}

function startDeadline(timeoutMs: number): { passed: Promise<undefined>; clear: () => void } {
  const { promise, resolve } = Promise.withResolvers<undefined>()
  const timer = setTimeout(() => resolve(undefined), timeoutMs)
  return { passed: promise, clear: () => clearTimeout(timer) }
}

/** What another process's mover made of a row, as our own would have told it. */
function outcomeOf(row: queries.FoundRow): MoveOutcome {
  // The other mover took it for a row that nobody waits for any more, and kept the conflict as a dead letter.
  if (row.refused_code === CONFLICT_CODE) return { kind: 'conflict' }
  if (row.refused_code !== null) return { kind: 'dead', reason: row.refused_reason ?? '' }
  if (row.is_stored || row.first_id === null || row.first_id === row.id) return { kind: 'stored' }
  return row.is_same === true ? { kind: 'replayed', firstId: row.first_id } : { kind: 'conflict' }
}

function unavailable(cause: unknown): ApiError {
  return new ApiError(
    'service_unavailable',
    'The email could not be stored durably in time. It may still be sent: repeat the request with the same Idempotency-Key to be sure that it goes out once.',
    { retryAfterS: 2, cause },
  )
}

function notAccepted(): ApiError {
  return new ApiError(
    'service_unavailable',
    'The email was not accepted: more mail waits for the database than can be held, or it did not answer in time. Repeat the request.',
    { retryAfterS: 2 },
  )
}
