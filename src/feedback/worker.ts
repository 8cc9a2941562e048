import { sql } from 'kysely'
import type { BounceAddresses } from '../bounce-address.ts'
import { reached } from '../crash-point.ts'
import type { Database } from '../db/pool.ts'
import { isLastingFault, sqlState } from '../db/sqlstate.ts'
import { inTransaction, type Transaction } from '../db/transaction.ts'
import type { Log } from '../log.ts'
import { Loop } from '../loop.ts'
import type { Bells } from '../queue/bells.ts'
import { type Boss, within } from '../queue/boss.ts'
import { FEEDBACK_QUEUE, type FeedbackJob } from '../queue/queues.ts'
import * as queries from './delivery-queries.ts'
import type { FeedbackEvent } from './event.ts'
import { readReport } from './parse/parsers.ts'
import type { Report } from './parse/report.ts'

/**
 * Feedback applies what providers told us.
 *
 * Takes in: jobs of the queue `feedback`, each a batch of ids of `mail.feedback`. Leaves behind, in one transaction:
 * what the events mean for messages and addresses (`applyFeedback`), each delivery `applied`, or `parked` with the
 * reason, and no job.
 *
 * Everything from the fetch to the last write is that one transaction, which talks to nobody but Postgres. So a claim
 * needs no record: if the process dies anywhere, the transaction is gone and the jobs are free again at once. What was
 * applied twice all the same (a parked delivery that is retried) is known by the keys of its events.
 */

const JOBS_PER_ROUND = 32
/** And no more than this of their bodies, or one: a SendGrid delivery alone may hold thousands of events. */
const BYTES_PER_ROUND = 1_024 * 1_024
const IDLE_MS = 1_000
const MAX_REASON_CHARS = 500

export type FeedbackDeps = {
  readonly db: Database
  readonly boss: Boss
  readonly bells: Bells
  readonly log: Log
  readonly bounceAddresses: BounceAddresses
  /** Harmless when it is told an event again, in any order. Told all events of a transaction at once: it locks rows. */
  readonly applyFeedback: (
    trx: Transaction,
    events: readonly FeedbackEvent[],
  ) => Promise<ReadonlySet<FeedbackEvent>>
}

export function createFeedbackLoop(deps: FeedbackDeps): Loop {
  const loop = new Loop({
    name: FEEDBACK_QUEUE,
    log: deps.log,
    idleMs: IDLE_MS,
    round: async () => {
      try {
        return await applyJobs(deps, applyTogether)
      } catch (error) {
        if (!isLastingFault(error)) throw error
        deps.log.error({ queue: FEEDBACK_QUEUE, error }, 'feedback could not be applied together')
        return applyJobs(deps, applySingly)
      }
    },
  })
  deps.bells.attach(FEEDBACK_QUEUE, loop.bell)
  return loop
}

type Read = { readonly row: queries.WaitingFeedback; readonly report: Report }

/** True when there may be more. */
async function applyJobs(
  deps: FeedbackDeps,
  apply: (deps: FeedbackDeps, trx: Transaction, reads: readonly Read[]) => Promise<queries.SettledFeedback[]>,
): Promise<boolean> {
  const { isMore, settled } = await inTransaction(deps.db, async (trx) => {
    const jobs = await deps.boss.fetch<FeedbackJob>(FEEDBACK_QUEUE, {
      batchSize: JOBS_PER_ROUND,
      ...within(trx),
    })
    if (jobs.length === 0) return { isMore: false, settled: [] }
    const { rows, left } = await queries.loadWaiting(
      trx,
      jobs.flatMap((job) => job.data.ids),
      BYTES_PER_ROUND,
    )
    const reads = await Promise.all(
      rows.map(async (row) => ({ row, report: await readRow(row, deps.bounceAddresses) })),
    )
    const outcome = await apply(deps, trx, reads)
    if (outcome.length > 0) await queries.settleFeedback(trx, outcome)
    await deps.boss.deleteJob(
      FEEDBACK_QUEUE,
      jobs.map((job) => job.id),
      within(trx),
    )
    if (left.length > 0) await deps.boss.insert(FEEDBACK_QUEUE, [{ data: { ids: left } }], within(trx))
    reached('feedback.before-commit')
    return { isMore: jobs.length === JOBS_PER_ROUND || left.length > 0, settled: outcome }
  })
  if (settled.length > 0) reached('feedback.committed')
  for (const { id, state, reason } of settled) {
    if (state === 'parked') deps.log.warn({ feedback: id, reason }, 'feedback is parked')
  }
  return isMore
}

async function applyTogether(
  deps: FeedbackDeps,
  trx: Transaction,
  reads: readonly Read[],
): Promise<queries.SettledFeedback[]> {
  const sensitive = await deps.applyFeedback(
    trx,
    reads.flatMap(({ report }) => report.events),
  )
  return reads.map((read) => settled(read, sensitive))
}

/**
 * Finds the deliveries that the database refuses, and parks those. Locks are taken by one delivery after the other
 * here: should that cross another worker, the deadlock is a fault that passes, and all of it is tried again.
 */
async function applySingly(
  deps: FeedbackDeps,
  trx: Transaction,
  reads: readonly Read[],
): Promise<queries.SettledFeedback[]> {
  const outcome: queries.SettledFeedback[] = []
  for (const read of reads) {
    await sql`/* feedback.mark */ savepoint delivery`.execute(trx)
    try {
      const sensitive = await deps.applyFeedback(trx, read.report.events)
      await sql`/* feedback.keep */ release savepoint delivery`.execute(trx)
      outcome.push(settled(read, sensitive))
    } catch (error) {
      if (!isLastingFault(error)) throw error
      await sql`/* feedback.undo */ rollback to savepoint delivery`.execute(trx)
      const fault = sqlState(error) ?? (error instanceof Error ? error.name : 'unknown')
      outcome.push({
        id: read.row.id,
        state: 'parked',
        reason: `could not be applied (${fault}); the log has the details`,
        isQuoting: false,
      })
      deps.log.error({ feedback: read.row.id, error }, 'feedback could not be applied')
    }
  }
  return outcome
}

function readRow(row: queries.WaitingFeedback, addresses: BounceAddresses): Promise<Report> {
  const raw = {
    endpoint: row.endpoint,
    eventKey: row.event_key,
    receivedAt: row.received_at,
    provider: row.provider,
    body: row.body,
    requiresBounceAddress: row.requires_bounce_address,
  }
  return readReport(row.kind, raw, addresses)
}

/** What could be read of a delivery is applied also when it is parked for the rest. */
function settled(
  { row, report: { events, ignored, faults } }: Read,
  sensitive: ReadonlySet<FeedbackEvent>,
): queries.SettledFeedback {
  const reason =
    faults.length > 0
      ? `${faults.length} of ${events.length + ignored.length + faults.length} could not be read: ${[...new Set(faults)].join('; ')}`
      : ignored.length > 0
        ? `nothing to do about ${[...new Set(ignored)].join(', ')}`
        : null
  return {
    id: row.id,
    state: faults.length > 0 ? 'parked' : 'applied',
    reason: reason?.slice(0, MAX_REASON_CHARS).toWellFormed() ?? null,
    isQuoting: events.some((event) => sensitive.has(event)),
  }
}
