import { setTimeout as delay } from 'node:timers/promises'
import { Doorbell } from './doorbell.ts'
import type { Log } from './log.ts'

const FIRST_PAUSE_MS = 100
const LONGEST_PAUSE_MS = 2_000
/** One that fails and works by turns, as on a full disk, is told once in so long. */
const NEWS_EACH_MS = 60_000

export type LoopOptions = {
  readonly name: string
  readonly log: Log
  /** How long an idle loop waits for its doorbell before it looks again by itself. */
  readonly idleMs: number
  /** One round of work. True: there may be more at once; false: wait for the bell; a number: or so many ms. */
  readonly round: () => Promise<boolean | number>
}

/**
 * Runs rounds until stopped. A round that throws (the database is away, a deadlock) is logged and tried
 * again after a growing pause: a loop ends only when it is told to.
 */
export class Loop {
  readonly bell = new Doorbell()
  readonly #options: LoopOptions
  #running: Promise<void> | undefined
  #stopping = false
  #failures = 0
  #toldAt = Number.NEGATIVE_INFINITY
  #isTold = false

  constructor(options: LoopOptions) {
    this.#options = options
  }

  start(): void {
    this.#running ??= this.#run()
  }

  /** Lets the round under way finish, then resolves. */
  async stop(): Promise<void> {
    this.#stopping = true
    this.bell.ring()
    await this.#running
  }

  async #run(): Promise<void> {
    while (!this.#stopping) {
      try {
        const more = await this.#options.round()
        if (this.#isTold) this.#options.log.info({ loop: this.#options.name }, 'loop works again')
        this.#isTold = false
        this.#failures = 0
        if (more !== true && !this.#stopping)
          await this.bell.wait(more === false ? this.#options.idleMs : more)
      } catch (error) {
        await this.#pauseAfter(error)
      }
    }
  }

  async #pauseAfter(error: unknown): Promise<void> {
    const { log, name } = this.#options
    // The first failure is news; the next ones of the same outage are not.
    const isNews = this.#failures === 0 && performance.now() - this.#toldAt >= NEWS_EACH_MS
    if (isNews) {
      this.#toldAt = performance.now()
      this.#isTold = true
    }
    log[isNews ? 'warn' : 'debug']({ loop: name, error }, 'loop failed, will try again')
    const pauseMs = Math.min(FIRST_PAUSE_MS * 2 ** this.#failures, LONGEST_PAUSE_MS)
    this.#failures += 1
    if (!this.#stopping) await delay(pauseMs)
  }
}
