import type { Database } from '../db/pool.ts'
import type { Duty } from './duty.ts'
import { countDepth, estimateDepth, takeSample } from './measures-queries.ts'

/**
 * Keeps `mail.depth` and its history. Counting takes the longer the more is waiting, so it is done again only after
 * COUNT_SHARE times as long as it took: it costs at most that share of one connection, with ten messages waiting or
 * with a million. Between counts, what came in and went out is added to the latest one.
 *
 * A process that dies takes up to a second of its flow with it, and what operators do with SQL is no flow at all: the
 * next count puts that right.
 */
const EACH_MS = 1_000
const COUNT_SHARE = 200
/** However long a count takes, it is not trusted longer than this. */
const MAX_BETWEEN_MS = 600_000

export function createDepthDuty({ db, now }: { readonly db: Database; readonly now: () => number }): Duty {
  let countAt = Number.NEGATIVE_INFINITY
  return {
    name: 'depth',
    everyMs: EACH_MS,
    isForLeader: true,
    run: async () => {
      const startedAt = now()
      if (startedAt >= countAt) {
        await countDepth(db)
        countAt = now() + Math.min((now() - startedAt) * COUNT_SHARE, MAX_BETWEEN_MS)
      } else await estimateDepth(db)
      await takeSample(db)
      return false
    },
  }
}
