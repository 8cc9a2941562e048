/** So many mails at such a rate, one phase after the other. */
export type Phase = { readonly name: string; readonly count: number; readonly perS: number }

/** Always the same gaps, so that two runs are offered the same. */
const SEED = 20_261_127

/**
 * The moments of a Poisson process, as many people who know nothing of each other make one: the gaps are exponential,
 * so some come close together. Each phase has exactly its count.
 */
export function* arrivals(phases: readonly Phase[], startMs: number): Generator<number> {
  const random = generator(SEED)
  let at = startMs
  for (const { count, perS } of phases) {
    for (let n = 0; n < count; n += 1) {
      at += (-Math.log(1 - random()) / perS) * 1_000
      yield at
    }
  }
}

/** One every so often, until nobody asks any more. */
export function* everySoOften(eachMs: number, startMs: number): Generator<number> {
  for (let n = 0; ; n += 1) yield startMs + n * eachMs
}

/** mulberry32: numbers from 0 up to but not including 1. */
function generator(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}
