import type { Database } from '../db/pool.ts'
import type { Log } from '../log.ts'
import { type AlertChange, evaluateAlerts } from './alert-queries.ts'
import type { Duty } from './duty.ts'

/**
 * One look at every alert rule. All that is known of an alert is in rows, so that another leader goes on where this one
 * was cut off: what fired is not fired again, and what has to last is measured from its first sight.
 */
const EACH_MS = 5_000

export function createAlertDuty({ db, log }: { readonly db: Database; readonly log: Log }): Duty {
  return {
    name: 'alerts',
    everyMs: EACH_MS,
    isForLeader: true,
    run: async () => {
      for (const change of await evaluateAlerts(db)) tell(log, change)
      return false
    },
  }
}

function tell(log: Log, { event, id, ...alert }: AlertChange): void {
  const fields = { alert: id, ...alert }
  if (event === 'resolved') log.info(fields, 'an alert is over')
  else log[alert.severity === 'critical' ? 'error' : 'warn'](fields, 'an alert fired')
}
