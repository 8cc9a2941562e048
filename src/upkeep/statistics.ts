import type { Database } from '../db/pool.ts'
import { inTransaction } from '../db/transaction.ts'
import type { Log } from '../log.ts'
import { Loop } from '../loop.ts'
import { addToStatistics, takeCursor } from './statistics-queries.ts'

/**
 * Keeps `mail.stat` and `mail.stat_time` by reading the event feed, so that neither the hot path nor a
 * question about yesterday pays for counting.
 *
 * The counts and the cursor move in one transaction: if the process dies, the same events are read again
 * and were not counted. The row of the cursor is the lock: one process reads, the others pass.
 */
const EVENTS_PER_ROUND = 5_000
const EACH_MS = 1_000

export function createStatisticsLoop({ db, log }: { readonly db: Database; readonly log: Log }): Loop {
  return new Loop({
    name: 'statistics',
    log,
    idleMs: EACH_MS,
    round: async () => (await countEvents(db)) === EVENTS_PER_ROUND,
  })
}

/** Counts the next events, at most `most`; returns how many it read. */
export async function countEvents(db: Database, most: number = EVENTS_PER_ROUND): Promise<number> {
  return inTransaction(db, async (trx) => {
    const cursor = await takeCursor(trx)
    return cursor === undefined ? 0 : addToStatistics(trx, cursor, most)
  })
}
