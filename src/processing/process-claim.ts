import type { Catalog, Stream } from '../catalog.ts'
import { reached } from '../crash-point.ts'
import { isLastingFault } from '../db/sqlstate.ts'
import { inTransaction } from '../db/transaction.ts'
import type { Handover } from '../queue/handover.ts'
import { processQueue } from '../queue/queues.ts'
import { NO_KEYS } from '../sealer.ts'
import type { UnsubscribeLinks } from '../unsubscribe-links.ts'
import { ALONE_PRIORITY, type Claim, finishJobs, insertSingly, type Job } from './claims.ts'
import type { FetchingDeps } from './fetching-lane.ts'
import { prepareBatch } from './prepare.ts'
import { type Batch, FATAL_DEATHS, readBatch } from './read-batch.ts'
import type { RenderPool } from './render/render-pool.ts'
import { sealProcessed } from './sensitive.ts'
import { NONE_LATER, type StoreDeps, storeDecided } from './store-decided.ts'
import { deadRow } from './store-queries.ts'

const DEATHS_REASON = `The worker died ${FATAL_DEATHS} times while it processed this message; look at its template and data before retrying.`
const FAILURE_REASON =
  'Processing failed in an unforeseen way, also with this message alone; the log has the details.'

export type ProcessingDeps = FetchingDeps &
  StoreDeps & {
    readonly catalog: { readonly current: Catalog; refresh(): Promise<void> }
    readonly renderer: RenderPool
    readonly unsubscribeLinks: UnsubscribeLinks
    readonly handover: Handover
  }

/**
 * `urgent`: messages that are more urgent than their stream. In the rounds of the others they would wait for the one
 * under way, and then go no faster than the hundreds they are processed with.
 */
export type LaneName = 'batches' | 'urgent' | 'alone'

/** What is known of the messages of a claim before it is their turn, if anything is. */
export type Early = { readonly batch?: Promise<Batch | undefined> }

/** All that is done with the jobs of one claim, until they are ended. Throws what the database throws: then it is to be done again. */
export async function processClaim(
  deps: ProcessingDeps,
  stream: Stream,
  lane: LaneName,
  claim: Claim,
  early: Early,
): Promise<void> {
  const queue = processQueue(stream.name)
  const jobs = freshJobs(lane, claim.jobs)
  const returned = claim.jobs.filter((job) => !jobs.includes(job))
  if (returned.length > 0) await splitJobs(deps, queue, { ...claim, jobs: returned })
  if (jobs.length === 0) return
  const fresh = { ...claim, jobs }
  try {
    const batch = (await early.batch) ?? (await readBatch(deps, stream.name, jobs))
    await processBatch(deps, stream, fresh, batch)
  } catch (error) {
    if (!isLastingFault(error)) throw error
    deps.log.error({ queue, jobs: jobs.length, error }, 'processing failed for good')
    await setApart(deps, stream, lane, fresh)
  }
}

/** Without those that came back: also of one message, it would take its company with it each time its worker dies. */
export function freshJobs(lane: LaneName, jobs: readonly Job[]): readonly Job[] {
  return lane === 'alone' ? jobs : jobs.filter((job) => job.retryCount === 0)
}

/** Each message of a batch that was given back gets a job of its own. */
async function splitJobs(deps: ProcessingDeps, queue: string, claim: Claim): Promise<void> {
  const isDone = await inTransaction(deps.db, async (trx) => {
    if (!(await finishJobs(deps, trx, queue, claim))) return false
    const ids = claim.jobs.flatMap((job) => job.data.ids)
    await insertSingly(deps, trx, queue, ids, ALONE_PRIORITY)
    return true
  })
  if (!isDone) return
  deps.log.warn({ queue, jobs: claim.jobs.length }, 'batch that was given back split into single messages')
}

async function processBatch(deps: ProcessingDeps, stream: Stream, claim: Claim, batch: Batch): Promise<void> {
  if (!stream.route.some((name) => deps.catalog.current.providers.has(name))) await deps.catalog.refresh()
  const { rows, deferred } = await prepareBatch(deps, stream, deps.catalog.current.providers, batch)
  reached('processing.prepared')
  const { sealer = NO_KEYS } = deps
  const secret = new Set(batch.messages.filter(({ message }) => message.sensitive).map(({ id }) => id))
  const decided = [
    ...rows.map((row) => (secret.has(row.id) ? sealProcessed(sealer, row) : row)),
    ...batch.doomed.map((id) => deadRow(id, 'worker_died', DEATHS_REASON)),
    ...batch.unreadable.map(({ id, fault }) => deadRow(id, fault.code, fault.message)),
  ]
  await storeDecided(deps, stream, claim, decided, { alone: deferred, fetching: batch.unfetched })
}

/** What failed in a way that will come again: the messages of a batch singly, a single one as a dead letter. */
async function setApart(deps: ProcessingDeps, stream: Stream, lane: LaneName, claim: Claim): Promise<void> {
  if (lane !== 'alone') return splitJobs(deps, processQueue(stream.name), claim)
  const ids = claim.jobs.flatMap((job) => job.data.ids)
  const decided = ids.map((id) => deadRow(id, 'processing_failed', FAILURE_REASON))
  await storeDecided(deps, stream, claim, decided, NONE_LATER)
}
