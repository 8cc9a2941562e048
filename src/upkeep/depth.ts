import type { Catalog } from '../catalog.ts'
import type { Database } from '../db/pool.ts'
import type { Duty } from './duty.ts'
import { countDepth, estimateDepth, takeSample } from './measures-queries.ts'

/**
 * Keeps `mail.depth` and its history. Counting takes the longer the more is waiting, so it is done again only after
 * COUNT_SHARE times as long as it took: it costs at most that share of one connection, with ten messages waiting or
 * with a million. Between counts, what came in and went out is added to the latest one. That is quick, unless an old
 * transaction keeps the dead entries before the oldest that waits; then it is done less often, in a tenth of the time.
 *
 * A send window that opens or closes makes all that waits for it ready, or deferred, and nothing moves that could be added:
 * then it is counted at once.
 *
 * A process tells of its flow once a second: what moved in the second before a count is added to it although it was counted,
 * and a process that dies takes a second of its flow with it. What operators do with SQL is no flow at all. The next count
 * puts all of that right.
 */
const EACH_MS = 1_000
const COUNT_SHARE = 200
const ESTIMATE_SHARE = 10
/** Half of the time after which nobody goes by `mail.depth` any more (mail.scale_streams). */
const MAX_BETWEEN_ESTIMATES_MS = 15_000
/** However long a count takes, it is not trusted longer than this. */
const MAX_BETWEEN_MS = 600_000

export type DepthDeps = {
  readonly db: Database
  readonly catalog: { readonly current: Catalog }
  readonly now: () => number
}

export function createDepthDuty({ db, catalog, now }: DepthDeps): Duty {
  let countAt = Number.NEGATIVE_INFINITY
  let estimateAt = Number.NEGATIVE_INFINITY
  let closedAtCount = ''
  return {
    name: 'depth',
    everyMs: EACH_MS,
    isForLeader: true,
    run: async () => {
      const startedAt = now()
      const closed = closedStreams(catalog.current)
      if (startedAt >= countAt || closed !== closedAtCount) {
        await countDepth(db)
        closedAtCount = closed
        countAt = now() + Math.min((now() - startedAt) * COUNT_SHARE, MAX_BETWEEN_MS)
      } else if (startedAt >= estimateAt) {
        await estimateDepth(db)
        estimateAt = now() + Math.min((now() - startedAt) * ESTIMATE_SHARE, MAX_BETWEEN_ESTIMATES_MS)
      }
      await takeSample(db)
      return false
    },
  }
}

/** As of the latest look at the catalog, which is before the count: a window that moves in between moves here next time. */
function closedStreams({ streams }: Catalog): string {
  const closed = [...streams.values()].filter(({ opensAt }) => opensAt !== null)
  return closed
    .map(({ name }) => name)
    .sort()
    .join(' ')
}
