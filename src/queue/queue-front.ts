/**
 * Where the living part of a queue begins, one position for each priority.
 *
 * Rows that were deleted stay in the index for as long as any transaction in the database is older than their end, and a
 * look from the start of the queue reads all of them again: with a forgotten transaction open, that is each message since.
 * The same holds for jobs that wait for a later moment. So a look begins where the latest one has found something, and only
 * one now and then begins at the very start: for what was committed late, put back, or has become due behind the others.
 * Those looks may take a tenth of the time. While they are quick, as they are without such a transaction, nearly every
 * look is one of them; when each takes 100 ms, what lies behind the front is found a second later.
 */

const SHARE_OF_TIME = 0.1
/** However long they take, no row waits longer than this to be seen. */
const LONGEST_MS = 5_000
const PRIORITIES = 10

/** One look: where it begins for each priority (of 0 to 9, as the queue counts them), null at the very start. */
export type Look = { readonly from: readonly (number | null)[]; readonly isWhole: boolean }

export const WHOLE_LOOK: Look = { from: new Array(PRIORITIES).fill(null), isWhole: true }

export type Found = { readonly priority: number; readonly position: number }

export class QueueFront {
  readonly #margin: number
  readonly #now: () => number
  readonly #from: (number | null)[] = new Array(PRIORITIES).fill(null)
  #nextWholeAt = Number.NEGATIVE_INFINITY

  /** `margin`: by how much a row may be behind what was committed before it, and is still found by every look. */
  constructor(margin: number, now: () => number = () => performance.now()) {
    this.#margin = margin
    this.#now = now
  }

  begin(): Look {
    const isWhole = this.#now() >= this.#nextWholeAt
    return isWhole ? WHOLE_LOOK : { from: [...this.#from], isWhole }
  }

  /** For whoever found nothing more: in how long a look can see more than this one; never later than a row may wait. */
  msUntilNews({ isWhole }: Look): number {
    return isWhole ? LONGEST_MS : Math.max(1, this.#nextWholeAt - this.#now())
  }

  /** With what was found, also when it is not taken in the end: the front stays before it. */
  end(look: Look, tookMs: number, found: readonly Found[]): void {
    if (look.isWhole) this.#nextWholeAt = this.#now() + Math.min(tookMs / SHARE_OF_TIME, LONGEST_MS)
    for (const [priority, alike] of Map.groupBy(found, (each) => each.priority)) {
      this.#from[priority] = Math.min(...alike.map(({ position }) => position)) - this.#margin
    }
  }
}
