import { ordersOf } from '../races/interleave.ts'
import { PAIRS, type Pair } from '../races/pairs.ts'
import { openRing, type Ring } from '../races/ring.ts'
import { failureRun } from '../run.ts'

/**
 * Two sessions go for one message, as their statements stand in the source, in orders spread over all in which their turns can
 * come, and in every one where these are few.
 * One of them wins, the other sees it, nobody runs into a deadlock, and what is left can go on.
 */
export const races = failureRun({
  name: 'races',
  promise:
    'two sessions that go for one message at the same moment have one winner, no deadlock, and leave nothing stuck',
  limitMinutes: 20,
  full: { ordersOfPair: 24 },
  short: { ordersOfPair: 4 },
  perform: async (scene, { ordersOfPair }) => {
    const ring = await openRing(scene)
    const broken: string[] = []
    let count = 0
    for (const pair of PAIRS) {
      const seen = new Map<string, string>()
      for (const order of ordersFor(pair, ring, ordersOfPair)) {
        count += 1
        const outcome = await ring.fight(pair, order)
        if (!pair.allowed.includes(outcome) && !seen.has(outcome)) seen.set(outcome, order)
      }
      const faults = [...seen].map(([outcome, order]) => `${pair.name}, in the order ${order}: ${outcome}`)
      scene.say(faults.length === 0 ? `${pair.name}: as written` : faults.join('\n  '))
      broken.push(...faults)
    }
    const deadlocks = await ring.deadlocks()
    return {
      // No mail is sent here: what is attempted are orders.
      verdict: { ...scene.ledger.verdict(), attempted: count },
      longestGapS: 0,
      recoveriesS: [],
      broken: [...broken, ...(deadlocks > 0 ? [`${deadlocks} deadlocks`] : [])],
      figures: { pairs: PAIRS.length, deadlocks },
    }
  },
})

/** At most `count`, spread over all: those that differ late are much alike. */
function ordersFor(pair: Pair, ring: Ring, count: number): string[] {
  const orders = ordersOf(...ring.sidesOf(pair, { id: '', address: '' }))
  if (orders.length <= count) return orders
  return Array.from(
    { length: count },
    (_, n) => orders[Math.round((n * (orders.length - 1)) / (count - 1))] ?? '',
  )
}
