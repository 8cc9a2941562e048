import type { Log } from './log.ts'

const EACH_MS = 60_000

/**
 * For what goes wrong again and again while one thing is wrong: told the first time, then once a minute with how often it
 * came meanwhile. A log that says it a thousand times hides the rest, and fills the disk that may be the trouble.
 */
export class Seldom {
  readonly #log: Log
  readonly #now: () => number
  readonly #told = new Map<string, { at: number; times: number }>()

  /** `now`: milliseconds that only go up. */
  constructor(log: Log, now: () => number = () => performance.now()) {
    this.#log = log
    this.#now = now
  }

  /** `kind` says which are the same; there must be few. */
  tell(level: 'warn' | 'error', kind: string, fields: object, message: string): void {
    const known = this.#told.get(kind)
    if (known !== undefined && this.#now() - known.at < EACH_MS) {
      known.times += 1
      return
    }
    this.#told.set(kind, { at: this.#now(), times: 0 })
    this.#log[level](
      known === undefined || known.times === 0 ? fields : { ...fields, timesMore: known.times },
      message,
    )
  }
}
