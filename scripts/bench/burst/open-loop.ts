import type { Answer, Door } from '../doors/door.ts'
import type { Kind } from './mail.ts'
import { Moments } from './moments.ts'

/** Refusals of one kind: how many answers, and the first and the last moment. */
export type Refusals = { readonly status: number; count: number; readonly fromMs: number; untilMs: number }

/** What one kind of mail met at the door. */
export type LoopReport = {
  readonly offered: number
  readonly accepted: number
  /** Moments by number, as text: when each was to be handed in, and when its acceptance was heard. */
  readonly intended: string
  readonly answered: string
  readonly refusals: readonly Refusals[]
  /** Refusals that did not say when to come again. */
  readonly withoutRetryAfter: number
  /** Acceptances that did not say durable. */
  readonly notDurable: number
  /** The most mails at once that found every connection busy. */
  readonly mostWaiting: number
}

const RETRY_MS = 1_000
/** Refusals that come again in about the same moment are due together. */
const RETRY_STEP_MS = 50
/** Then the list is cut: at every single one it would be copied whole while many wait. */
const MAX_LEFT = 10_000
const RETRYABLE = new Set([0, 429, 500, 503])

/**
 * Mails that are handed in at their own moments, however long the answers take: when every connection is busy they
 * wait here, and their latency counts from the moment meant for them. What is refused comes again when it was told
 * to, under the same key.
 */
export class OpenLoop {
  readonly #kind: Kind
  readonly #free: Door[]
  readonly #textOf: (n: number) => string
  readonly #schedule: Iterator<number>
  readonly #intended = new Moments()
  readonly #answered = new Moments()
  readonly #retries = new Map<number, number[]>()
  readonly #refusals = new Map<number, Refusals>()
  #waiting: number[] = []
  /** So many at the head of `#waiting` have left. */
  #left = 0
  #next: number | undefined
  #offered = 0
  #accepted = 0
  #failed = 0
  #withoutRetryAfter = 0
  #notDurable = 0
  #mostWaiting = 0

  /** `schedule` gives the moment of each mail, on the monotonic clock; `textOf` the nth. */
  constructor(kind: Kind, doors: readonly Door[], schedule: Iterable<number>, textOf: (n: number) => string) {
    this.#kind = kind
    this.#textOf = textOf
    this.#free = [...doors]
    this.#schedule = schedule[Symbol.iterator]()
    this.#next = this.#schedule.next().value
  }

  get offered(): number {
    return this.#offered
  }

  get accepted(): number {
    return this.#accepted
  }

  /** Mails that got an answer that is neither acceptance nor a reason to come again. */
  get failed(): number {
    return this.#failed
  }

  /** No more are offered; those that were are handed in until they are accepted. */
  end(): void {
    this.#next = undefined
  }

  get isDone(): boolean {
    return this.#next === undefined && this.#accepted + this.#failed === this.#offered
  }

  /** To be called every millisecond or so. */
  tick(now: number): void {
    while (this.#next !== undefined && this.#next <= now) {
      this.#intended.set(this.#offered, this.#next)
      this.#waiting.push(this.#offered)
      this.#offered += 1
      this.#next = this.#schedule.next().value
    }
    for (const [step, numbers] of this.#retries) {
      if (step * RETRY_STEP_MS > now) continue
      this.#retries.delete(step)
      this.#waiting.push(...numbers)
    }
    this.#handInWaiting()
  }

  #handInWaiting(): void {
    for (let door = this.#free.at(-1); door !== undefined; door = this.#free.at(-1)) {
      const n = this.#waiting[this.#left]
      if (n === undefined) break
      this.#left += 1
      this.#free.pop()
      void this.#handIn(n, door)
    }
    if (this.#left > MAX_LEFT) {
      this.#waiting = this.#waiting.slice(this.#left)
      this.#left = 0
    }
    this.#mostWaiting = Math.max(this.#mostWaiting, this.#waiting.length - this.#left)
  }

  async #handIn(n: number, door: Door): Promise<void> {
    const answer = await door.handIn({ text: this.#textOf(n), key: `${this.#kind}-${n}` })
    this.#free.push(door)
    const now = Number(process.hrtime.bigint()) / 1e6
    if (answer.status === 200) {
      this.#accepted += 1
      this.#answered.set(n, now)
      if (!answer.isDurable) this.#notDurable += 1
    } else this.#refused(n, answer, now)
  }

  #refused(n: number, { status, retryAfterS }: Answer, now: number): void {
    const refusals = this.#refusals.get(status) ?? { status, count: 0, fromMs: now, untilMs: now }
    refusals.count += 1
    refusals.untilMs = now
    this.#refusals.set(status, refusals)
    if (!RETRYABLE.has(status)) {
      this.#failed += 1
      return
    }
    if (status !== 0 && retryAfterS === undefined) this.#withoutRetryAfter += 1
    const dueMs = now + (retryAfterS === undefined ? RETRY_MS : retryAfterS * 1_000)
    const step = Math.ceil(dueMs / RETRY_STEP_MS)
    const due = this.#retries.get(step)
    if (due === undefined) this.#retries.set(step, [n])
    else due.push(n)
  }

  report(): LoopReport {
    return {
      offered: this.#offered,
      accepted: this.#accepted,
      intended: this.#intended.toText(),
      answered: this.#answered.toText(),
      refusals: [...this.#refusals.values()],
      withoutRetryAfter: this.#withoutRetryAfter,
      notDurable: this.#notDurable,
      mostWaiting: this.#mostWaiting,
    }
  }
}
