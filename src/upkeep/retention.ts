import { reached } from '../crash-point.ts'
import type { Database } from '../db/pool.ts'
import type { Log } from '../log.ts'
import type { Duty } from './duty.ts'
import { type Retained, retain } from './queries.ts'

const HOURLY_MS = 3_600_000

/**
 * Removes what has been kept long enough, by the rules of `mail.retention_due`: each step is one transaction of a
 * bounded number of rows, or one partition. What somebody is using at that moment is left for the next hour.
 */
export function createRetentionDuty({ db, log }: { readonly db: Database; readonly log: Log }): Duty {
  let removed: Retained[] = []
  return {
    name: 'retention',
    everyMs: HOURLY_MS,
    isForLeader: true,
    run: async () => {
      const step = await retain(db)
      if (step !== undefined) {
        reached('retention.step-done')
        removed.push(step)
        return true
      }
      if (removed.length > 0)
        log.info({ removed: summarise(removed) }, 'what was kept long enough was removed')
      removed = []
      return false
    },
  }
}

/** Rows by what was done to which table; of partitions, how many. */
function summarise(steps: readonly Retained[]): Readonly<Record<string, number>> {
  const sums: Record<string, number> = {}
  for (const { action, relation, rows } of steps) {
    const key = `${action}: ${relation}`
    sums[key] = (sums[key] ?? 0) + rows
  }
  return sums
}
