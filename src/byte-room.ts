/** Bytes that one piece of work holds of the room there is, until it gives them back. */
export type ByteClaim = {
  /** False, and nothing taken, when so many are not left. */
  take(bytes: number): boolean
  /** Gives back everything this claim took. Safe to call twice. */
  release(): void
}

/** How many bytes the work of a process may hold in memory together; what does not fit has to come again. */
export class ByteRoom {
  #left: number

  constructor(bytes: number) {
    this.#left = bytes
  }

  open(): ByteClaim {
    let taken = 0
    return {
      take: (bytes) => {
        if (bytes > this.#left) return false
        this.#left -= bytes
        taken += bytes
        return true
      },
      release: () => {
        this.#left += taken
        taken = 0
      },
    }
  }
}
