import type { Database } from '../db/pool.ts'
import type { Log } from '../log.ts'
import { Loop } from '../loop.ts'
import type { Meter } from '../meter.ts'
import * as queries from './queries.ts'

/**
 * What keeps the rest healthy, once a second in every process: fresh streams and providers, rates, the
 * watch over the unlogged intake, and (in workers) the rescue of dead ones; once an hour partitions ahead
 * and what has served its time. Every part is safe to be done by several processes at once, and to be cut
 * off anywhere.
 */
const EACH_MS = 1_000
const RARELY_MS = 3_600_000

export type UpkeepDeps = {
  readonly db: Database
  readonly log: Log
  readonly meter: Meter
  readonly catalog: { refresh(): Promise<void> }
  /** Identifies this process's rows in `mail.throughput`. */
  readonly process: string
  /** Looks after dead workers; absent in a process that has no worker session. */
  readonly rescue: (() => Promise<void>) | undefined
}

export function createUpkeepLoop(deps: UpkeepDeps): Loop {
  let nextRareAt = 0
  return new Loop({
    name: 'upkeep',
    log: deps.log,
    idleMs: EACH_MS,
    round: async () => {
      await deps.catalog.refresh()
      await deps.rescue?.()
      await watchIntake(deps)
      await queries.addThroughput(deps.db, deps.process, deps.meter.drain())
      if (Date.now() < nextRareAt) return false
      nextRareAt = Date.now() + RARELY_MS
      const made = await queries.ensurePartitions(deps.db)
      if (made > 0) deps.log.info({ partitions: made }, 'partitions made ahead')
      if (await queries.purge(deps.db)) nextRareAt = 0
      if (await queries.purgeAttachments(deps.db)) nextRareAt = 0
      return false
    },
  })
}

async function watchIntake(deps: UpkeepDeps): Promise<void> {
  for (const loss of await queries.watchIntake(deps.db)) {
    deps.log.error(
      { intactAt: loss.intact_at, atLeast: loss.at_least, atMost: loss.at_most },
      'a crash of Postgres emptied the unlogged intake: buffered messages were lost',
    )
  }
}
