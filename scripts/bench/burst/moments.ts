/** Moments by number, kept in one block of memory that doubles; what did not happen is NaN. */
export class Moments {
  #at = new Float64Array(1_024).fill(Number.NaN)
  #length = 0

  get length(): number {
    return this.#length
  }

  get(n: number): number {
    return this.#at[n] ?? Number.NaN
  }

  set(n: number, at: number): void {
    if (n >= this.#at.length) {
      const larger = new Float64Array(Math.max(this.#at.length * 2, n + 1)).fill(Number.NaN)
      larger.set(this.#at)
      this.#at = larger
    }
    this.#at[n] = at
    this.#length = Math.max(this.#length, n + 1)
  }

  /** For another process, over a channel that carries JSON. */
  toText(): string {
    return Buffer.from(this.#at.buffer, 0, this.#length * 8).toString('base64')
  }

  static fromText(text: string): Moments {
    const bytes = Uint8Array.from(Buffer.from(text, 'base64'))
    const moments = new Moments()
    moments.#at = new Float64Array(bytes.buffer)
    moments.#length = moments.#at.length
    return moments
  }
}

/** The machine's monotonic clock in milliseconds: the same in all of its processes. */
export function monotonicMs(): number {
  return Number(process.hrtime.bigint()) / 1e6
}
