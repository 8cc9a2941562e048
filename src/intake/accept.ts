import { reached } from '../crash-point.ts'
import type { Database } from '../db/pool.ts'
import { ApiError } from '../errors.ts'
import type { Message } from '../message/message.ts'
import { isUrgent } from '../urgency.ts'
import { notAccepted, unavailable } from './acceptance-errors.ts'
import { Appender, FLUSH_CHARS } from './appender.ts'
import { CONFLICT_CODE, type MoveOutcome } from './idempotency.ts'
import type { MoverLane } from './mover.ts'
import * as queries from './queries.ts'

/**
 * Acceptance over REST: rows from all requests of a moment are appended to the unlogged intake in one
 * statement, and durable answers wait until a mover has committed them to a logged table.
 *
 * If the process dies before the append, nothing was accepted and nobody was told so. After it, the rows
 * are in the intake and any mover takes them: the caller, who saw its connection break, may repeat with
 * its idempotency key. If the wait ends without news, the answer is 503, never a false "durable".
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
  readonly moved: PromiseWithResolvers<MoveOutcome>
  readonly since: number
}

export class Acceptor {
  readonly #db: Database
  readonly #appenders: { readonly urgent: Appender; readonly others: Appender }
  readonly #waiting = new Map<string, Waiter>()
  #heldChars = 0
  #lookTimer: NodeJS.Timeout | undefined
  #lookMs = FIRST_LOOK_MS

  /** `process` is the name under which this process's mover takes its own rows first. */
  constructor(db: Database, process: string, wakeMover: (lane: MoverLane) => void) {
    this.#db = db
    const appenderTo = (lane: MoverLane) => new Appender({ db, process, onAppended: () => wakeMover(lane) })
    this.#appenders = { urgent: appenderTo('urgent'), others: appenderTo('all') }
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
    const appender = this.#appenderOf(row)
    const isAppended = await Promise.race([appender.append(row).then(() => true), deadline])
    if (isAppended === undefined) throw appender.withdraw(row) ? notAccepted() : unavailable(undefined)
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

  /** What is urgent is not appended, and not moved, in company of hundreds that are not. */
  #appenderOf(row: queries.IntakeRow): Appender {
    return isUrgent(row) ? this.#appenders.urgent : this.#appenders.others
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
