type Waiter = { readonly owner: string; readonly bytes: number; readonly grant: (isOver: boolean) => void }

/**
 * How many bytes the sends of this process may hold at once. An owner gets more only while what it would hold is at most
 * what is left free: one whose sends hang keeps half, and leaves the other half to the others. What does not fit goes all
 * the same when its owner holds nothing else, one such at a time, so that nothing is too large to be sent.
 */
export class ByteBudget {
  readonly #maxBytes: number
  readonly #held = new Map<string, number>()
  #waiting: Waiter[] = []
  #used = 0
  #isOver = false

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes
  }

  /** Resolves when there is room, in the owner's order; the function gives it back. Undefined when `signal` came first. */
  take(owner: string, bytes: number, signal: AbortSignal): Promise<(() => void) | undefined> {
    return new Promise((resolve) => {
      if (signal.aborted) return resolve(undefined)
      const leave = () => {
        this.#waiting = this.#waiting.filter((each) => each !== waiter)
        resolve(undefined)
        this.#admit()
      }
      const grant = (isOver: boolean) => {
        signal.removeEventListener('abort', leave)
        resolve(this.#giveBackOnce(owner, bytes, isOver))
      }
      const waiter = { owner, bytes, grant }
      signal.addEventListener('abort', leave, { once: true })
      this.#waiting.push(waiter)
      this.#admit()
    })
  }

  #admit(): void {
    const blocked = new Set<string>()
    for (const waiter of [...this.#waiting]) {
      const { owner, bytes, grant } = waiter
      const held = this.#held.get(owner) ?? 0
      const fits = held + bytes <= this.#maxBytes - this.#used
      const goesOver = !fits && held === 0 && !this.#isOver
      if (blocked.has(owner) || !(fits || goesOver)) {
        blocked.add(owner)
        continue
      }
      this.#waiting = this.#waiting.filter((each) => each !== waiter)
      this.#held.set(owner, held + bytes)
      this.#used += bytes
      this.#isOver ||= goesOver
      grant(goesOver)
    }
  }

  #giveBackOnce(owner: string, bytes: number, isOver: boolean): () => void {
    let isHeld = true
    return () => {
      if (!isHeld) return
      isHeld = false
      const left = (this.#held.get(owner) ?? 0) - bytes
      if (left > 0) this.#held.set(owner, left)
      else this.#held.delete(owner)
      this.#used -= bytes
      if (isOver) this.#isOver = false
      this.#admit()
    }
  }
}
