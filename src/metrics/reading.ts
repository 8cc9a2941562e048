export type ReadingOptions<T> = {
  readonly read: () => Promise<T>
  /** A value this young is not read again. */
  readonly freshMs: number
  /** While reading takes its time, a value this old is still given; beyond it none is. */
  readonly keepMs: number
  readonly onError: (error: unknown) => void
  /** Milliseconds that only go up. */
  readonly now: () => number
}

type Taken<T> = { readonly value: T; readonly at: number }

/**
 * A value that costs a query. However many ask, it is read by one at a time, and not while it is fresh. Whoever asks
 * waits only for so long; a reading that takes longer serves the next. After one that failed there is no value.
 */
export class Reading<T> {
  readonly #options: ReadingOptions<T>
  #latest: Taken<T> | undefined
  #pending: Promise<void> | undefined

  constructor(options: ReadingOptions<T>) {
    this.#options = options
  }

  /** The value and its age, or undefined when none can be had within `waitMs`. Never throws. */
  async get(waitMs: number): Promise<{ value: T; ageMs: number } | undefined> {
    const { freshMs, keepMs, now } = this.#options
    if (this.#latest === undefined || now() - this.#latest.at >= freshMs) await this.#readWithin(waitMs)
    if (this.#latest === undefined) return undefined
    const ageMs = now() - this.#latest.at
    return ageMs > keepMs ? undefined : { value: this.#latest.value, ageMs }
  }

  async #readWithin(waitMs: number): Promise<void> {
    this.#pending ??= this.#read().finally(() => {
      this.#pending = undefined
    })
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, waitMs)
    })
    await Promise.race([this.#pending, late])
    clearTimeout(timer)
  }

  async #read(): Promise<void> {
    const { read, onError, now } = this.#options
    // As of its begin: what takes long was already old when it came.
    const at = now()
    try {
      this.#latest = { value: await read(), at }
    } catch (error) {
      this.#latest = undefined
      onError(error)
    }
  }
}
