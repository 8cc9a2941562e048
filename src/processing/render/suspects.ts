/** More than this many templates misbehaving at once are the newest this many. */
const MAX_SUSPECTS = 1_000

/** Templates that were slow, were stopped, or cost a thread its life; each for `forMs` after the last time. */
export class Suspects {
  readonly #until = new Map<string, number>()
  readonly #forMs: number
  readonly #now: () => number

  constructor(forMs: number, now: () => number) {
    this.#forMs = forMs
    this.#now = now
  }

  add(key: string): void {
    this.#until.delete(key)
    this.#until.set(key, this.#now() + this.#forMs)
    const [oldest] = this.#until.keys()
    if (this.#until.size > MAX_SUSPECTS && oldest !== undefined) this.#until.delete(oldest)
  }

  has(key: string): boolean {
    const until = this.#until.get(key)
    if (until === undefined) return false
    if (until > this.#now()) return true
    this.#until.delete(key)
    return false
  }
}
