import type { Catalog } from '../catalog.ts'
import type { Database } from '../db/pool.ts'
import type { Log } from '../log.ts'
import type { Meter } from '../meter.ts'
import { createAlertDuty } from './alerts.ts'
import { createDepthDuty } from './depth.ts'
import type { Duty } from './duty.ts'
import { addMeasures } from './measures-queries.ts'
import * as queries from './queries.ts'
import { createRetentionDuty } from './retention.ts'

export type DutyDeps = {
  readonly db: Database
  readonly log: Log
  readonly meter: Meter
  readonly lifeline: { look(): Promise<void> }
  readonly clock: { look(): Promise<void> }
  readonly catalog: { readonly current: Catalog; refresh(): Promise<void> }
  /** Identifies this process's rows in the tables of measures. */
  readonly process: string
  /** Looks after dead workers; absent in a process that has no worker session. */
  readonly rescue: (() => Promise<void>) | undefined
}

const EACH_MS = 1_000
const HOURLY_MS = 3_600_000

/** All the upkeep there is, in the order in which it is done. */
export function createDuties(deps: DutyDeps): readonly Duty[] {
  const { db, log, meter, clock, catalog, lifeline, process, rescue } = deps
  return [
    everySecond('clock', () => clock.look()),
    everySecond('look at the lifeline', () => lifeline.look()),
    everySecond('catalog', () => catalog.refresh()),
    ...(rescue === undefined ? [] : [everySecond('rescue', rescue)]),
    everySecond('watch over the intake', () => watchIntake(deps)),
    everySecond('measures', () => meter.tell((measures) => addMeasures(db, process, measures))),
    createDepthDuty({ db, catalog, now: () => performance.now() }),
    createAlertDuty({ db, log }),
    {
      name: 'partitions',
      everyMs: HOURLY_MS,
      isForLeader: true,
      run: async () => {
        const made = await queries.ensurePartitions(db)
        if (made > 0) log.info({ partitions: made }, 'partitions made ahead')
        return false
      },
    },
    { name: 'purge', everyMs: HOURLY_MS, isForLeader: true, run: () => queries.purge(db) },
    createRetentionDuty(deps),
    {
      name: 'purge of attachments',
      everyMs: HOURLY_MS,
      isForLeader: true,
      run: () => queries.purgeAttachments(db),
    },
  ]
}

function everySecond(name: string, run: () => Promise<void>): Duty {
  return {
    name,
    everyMs: EACH_MS,
    isForLeader: false,
    run: async () => {
      await run()
      return false
    },
  }
}

async function watchIntake({ db, log }: DutyDeps): Promise<void> {
  for (const loss of await queries.watchIntake(db)) {
    log.error(
      { intactAt: loss.intact_at, atLeast: loss.at_least, atMost: loss.at_most },
      'a crash of Postgres emptied the unlogged intake: buffered messages were lost',
    )
  }
}
