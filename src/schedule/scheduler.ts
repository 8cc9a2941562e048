import type { Catalog } from '../catalog.ts'
import { reached } from '../crash-point.ts'
import type { Database } from '../db/pool.ts'
import { inTransaction } from '../db/transaction.ts'
import type { Log } from '../log.ts'
import { Loop } from '../loop.ts'
import type { Meter } from '../meter.ts'
import type { Bells } from '../queue/bells.ts'
import { announceProcessing, enqueueProcessing, type Processable } from '../queue/processing-jobs.ts'
import * as queries from './queries.ts'

/**
 * The scheduler releases messages whose moment has come.
 *
 * Takes in: rows of `mail.scheduled` that are due, urgent first, a batch at a time. Leaves behind, in one transaction:
 * the messages `accepted`, processing jobs that carry batches of their ids, and no row in `mail.scheduled`.
 *
 * Any number of processes may run one; they pass over what another has locked. If the process dies before the
 * commit, nothing happened and another takes the rows; after it, everything happened. A message that is canceled or
 * moved at the same moment has one winner, whoever has its row first.
 *
 * However many are due in one minute, more urgent ones are released by the next batch, and what is released waits in
 * the queues of its own stream.
 */

const BATCH_ROWS = 500
/** The longest sleep: a message that was scheduled meanwhile may be due before the one we sleep for. */
const LOOK_EACH_MS = 500

export type SchedulerDeps = {
  readonly db: Database
  readonly bells: Bells
  readonly meter: Meter
  readonly catalog: { readonly current: Catalog }
  readonly log: Log
}

/** Every worker process runs one. */
export function createSchedulerLoop(deps: SchedulerDeps): Loop {
  return new Loop({
    name: 'scheduler',
    log: deps.log,
    idleMs: LOOK_EACH_MS,
    round: async () => {
      const waitMs = await queries.msUntilDue(deps.db)
      if (waitMs === undefined || waitMs > 0) return Math.min(waitMs ?? LOOK_EACH_MS, LOOK_EACH_MS)
      const released = await releaseDue(deps)
      // None though some are due: others have them in hand.
      return released.length > 0
    },
  })
}

/** Releases one batch of what is due; says what was released. */
export async function releaseDue(deps: SchedulerDeps): Promise<Processable[]> {
  const released = await inTransaction(deps.db, async (trx) => {
    const due = await queries.lockDue(trx, BATCH_ROWS)
    if (due.length === 0) return []
    const messages = await queries.release(trx, due)
    await enqueueProcessing(trx, messages)
    reached('schedule.before-commit')
    return messages
  })
  if (released.length > 0) reached('schedule.committed')
  announceProcessing(deps, released)
  for (const [stream, alike] of Map.groupBy(released, (row) => row.stream)) {
    deps.meter.wentOut({ stage: 'scheduled', stream, provider: '' }, alike.length)
  }
  return released
}
