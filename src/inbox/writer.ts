import type { Database } from '../db/pool.ts'
import type { Log } from '../log.ts'
import { insertInboxMails, type NewInboxMail, trimInbox } from './queries.ts'

type WriterDeps = { readonly db: Database; readonly log: Log; readonly keep: number }

type Waiting = {
  readonly mail: NewInboxMail
  readonly stored: () => void
  readonly failed: (cause: unknown) => void
}

/** One statement carries at most this much, so that a burst of large mails stays far from any limit. */
const MAX_BATCH_BYTES = 16 * 1024 * 1024
const MAX_BATCH_MAILS = 500
const MIN_TRIM_INTERVAL_MS = 1000

/**
 * Stores mails in micro-batches: while one insert runs the next mails gather, and go together. Trimming runs
 * beside the inserts, at most once a second. If the process dies, a mail whose `store` has not settled may or
 * may not be in the table; its sender saw no answer.
 */
export class InboxWriter {
  readonly #deps: WriterDeps
  readonly #waiting: Waiting[] = []
  #inserting: Promise<void> | undefined
  #failing = false
  #trimming: Promise<void> | undefined
  #trimTimer: NodeJS.Timeout | undefined
  #nextTrimAtMs = 0

  constructor(deps: WriterDeps) {
    this.#deps = deps
  }

  /** Resolves when the mail is committed, rejects with the database's error when it is not. */
  store(mail: NewInboxMail): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    this.#waiting.push({ mail, stored: resolve, failed: reject })
    this.#inserting ??= this.#insertWaiting()
    return promise
  }

  /** Waits until everything given to `store` has settled and the table holds no more than `keep`. */
  async stop(): Promise<void> {
    await this.#inserting
    await this.#trimming
    if (this.#trimTimer === undefined) return
    clearTimeout(this.#trimTimer)
    await this.#trim()
  }

  async #insertWaiting(): Promise<void> {
    while (this.#waiting.length > 0) {
      const batch = this.#takeBatch()
      try {
        await insertInboxMails(
          this.#deps.db,
          batch.map(({ mail }) => mail),
        )
        this.#noteSuccess()
        for (const { stored } of batch) stored()
      } catch (cause) {
        this.#noteFailure(cause, batch.length)
        for (const { failed } of batch) failed(cause)
      }
    }
    // No await between the last look at the list and this line, so no mail is left behind.
    this.#inserting = undefined
  }

  #takeBatch(): Waiting[] {
    let bytes = 0
    let count = 0
    for (const { mail } of this.#waiting) {
      bytes += mail.raw.length
      if (count > 0 && (bytes > MAX_BATCH_BYTES || count >= MAX_BATCH_MAILS)) break
      count += 1
    }
    return this.#waiting.splice(0, count)
  }

  /** A trim is always due after an insert, now or when the second is over, so the bound holds in the end. */
  #noteSuccess(): void {
    if (this.#failing) this.#deps.log.info({}, 'the inbox stores mail again')
    this.#failing = false
    if (this.#trimTimer !== undefined) return
    const delayMs = Math.max(0, this.#nextTrimAtMs - performance.now())
    this.#trimTimer = setTimeout(() => {
      this.#trimming = this.#trim()
    }, delayMs)
    this.#trimTimer.unref()
  }

  /** One line when the trouble begins; every refused mail is also seen by its sender. */
  #noteFailure(cause: unknown, mails: number): void {
    if (!this.#failing)
      this.#deps.log.warn({ error: cause, mails }, 'the inbox cannot store mail; senders are asked to retry')
    this.#failing = true
  }

  async #trim(): Promise<void> {
    this.#trimTimer = undefined
    this.#nextTrimAtMs = performance.now() + MIN_TRIM_INTERVAL_MS
    try {
      await trimInbox(this.#deps.db, this.#deps.keep)
    } catch (cause) {
      this.#deps.log.warn({ error: cause }, 'the inbox could not be trimmed; the next mail tries again')
    }
  }
}
