import type { BulkLimits } from './deps.ts'

/** Lets so many in at once; whoever finds no room waits for a moment, first come first served. */
export class BulkSlots {
  #taken = 0
  readonly #waiting = new Set<(entered: boolean) => void>()

  /** What to call when leaving; undefined when no room was made in time. */
  async enter({
    slots,
    slotWaitMs,
  }: Pick<BulkLimits, 'slots' | 'slotWaitMs'>): Promise<(() => void) | undefined> {
    if (this.#taken < slots) this.#taken += 1
    else if (!(await this.#wait(slotWaitMs))) return undefined
    return () => this.#leave()
  }

  #wait(waitMs: number): Promise<boolean> {
    return new Promise((resolve) => {
      const settle = (entered: boolean) => {
        clearTimeout(timer)
        this.#waiting.delete(settle)
        resolve(entered)
      }
      const timer = setTimeout(() => settle(false), waitMs)
      this.#waiting.add(settle)
    })
  }

  /** The place goes to the next who waits, if there is one. */
  #leave(): void {
    const [next] = this.#waiting
    if (next === undefined) this.#taken -= 1
    else next(true)
  }
}
