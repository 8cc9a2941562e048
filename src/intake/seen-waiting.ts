import type { Measured } from './pressure-queries.ts'

/** How exact an age is that comes from looks, and so how many looks are kept. */
const LOOK_EACH_MS = 1_000
const LONGEST_KEPT_MS = 3_600_000

type Look = Pick<Measured, 'first_seq' | 'last_seq'> & { readonly at: number }

/**
 * What earlier looks at the doors say of how long a message can have waited there. When it was received says less: a
 * long transaction shows its rows at its end, and a refused message that is retried has the time of its first coming.
 */
export class SeenWaiting {
  readonly #looks: Look[] = []

  /** Takes a look down; those of more than `keepMs` before, and an hour at most, are forgotten. */
  note({ first_seq, last_seq }: Measured, at: number, keepMs: number): void {
    while (at - (this.#looks[0]?.at ?? at) > Math.min(keepMs, LONGEST_KEPT_MS)) this.#looks.shift()
    if (at - (this.#looks.at(-1)?.at ?? Number.NEGATIVE_INFINITY) < LOOK_EACH_MS) return
    this.#looks.push({ first_seq, last_seq, at })
  }

  /** Seconds that the oldest message has waited at most, as far as the looks go back. */
  oldestAgeS({ oldest_seq: seq, oldest_age_s: sinceReceivedS }: Measured, at: number): number {
    if (seq === null) return 0
    const without = this.#looks.findLast((look) => !isPossiblyAt(look, seq))
    return without === undefined ? sinceReceivedS : Math.min(sinceReceivedS, (at - without.at) / 1_000)
  }
}

/** False: its number had not been given yet, or it would have been the first. */
function isPossiblyAt({ first_seq: first, last_seq: last }: Look, seq: number): boolean {
  return first !== null && first <= seq && seq <= last
}
