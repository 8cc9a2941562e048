import type { Catalog, Stream } from '../catalog.ts'
import { reached } from '../crash-point.ts'
import { isLastingFault } from '../db/sqlstate.ts'
import { inTransaction } from '../db/transaction.ts'
import { Loop } from '../loop.ts'
import { dispatchQueue, jobPriority, processQueue, urgentBell } from '../queue/queues.ts'
import { NO_KEYS } from '../sealer.ts'
import type { UnsubscribeLinks } from '../unsubscribe-links.ts'
import {
  ALONE_PRIORITY,
  type Claim,
  claimedJobs,
  claimJobs,
  FETCHING_PRIORITY,
  finishJobs,
  insertSingly,
  type Job,
  tellLost,
  type Wanted,
} from './claims.ts'
import { type FetchingDeps, FetchingLane, fetchingBell } from './fetching-lane.ts'
import { prepareBatch } from './prepare.ts'
import { type Batch, FATAL_DEATHS, readBatch } from './read-batch.ts'
import type { RenderPool } from './render/render-pool.ts'
import { sealProcessed } from './sensitive.ts'
import { deadRow, type ProcessedRow, storeProcessed } from './store-queries.ts'

/**
 * Processing prepares accepted messages for dispatch.
 *
 * Takes in: jobs of `process.<stream>`, each a batch of ids of messages that are `accepted`. Leaves
 * behind, in one transaction: the messages `queued` for a provider with what was rendered, or `dead` with
 * the reason, or `suppressed`; one dispatch job for each that is queued; no processing job. Messages that
 * name attachments by URL go to a lane of their own first (see fetching-lane.ts).
 *
 * If the process dies
 * - before the claim commits: the job was never taken;
 * - between the claim and the final commit: nothing was written; upkeep gives the job back when the
 *   worker's session lock is gone. A batch that comes back is split into jobs of one id each, which a
 *   loop of its own takes, so that one message that kills a worker cannot hold the others;
 * - after the final commit: done.
 *
 * If the database goes away and the process lives, the jobs in hand are taken up again when it is back: nobody
 * else may touch what a living worker claimed.
 */

const JOBS_PER_ROUND = 4
const IDLE_MS = 1_000
const DEATHS_REASON = `The worker died ${FATAL_DEATHS} times while it processed this message; look at its template and data before retrying.`
const FAILURE_REASON =
  'Processing failed in an unforeseen way, also with this message alone; the log has the details.'
const SLICE_CHARS = 16_000_000
/** With more than these there is no hurry: what comes in is a stream. */
const EARLY_MESSAGES = 10

export type ProcessingDeps = FetchingDeps & {
  readonly catalog: { readonly current: Catalog; refresh(): Promise<void> }
  readonly renderer: RenderPool
  readonly unsubscribeLinks: UnsubscribeLinks
}

/**
 * `urgent`: messages that are more urgent than their stream. In the rounds of the others they would wait for the one
 * under way, and then go no faster than the hundreds they are processed with.
 */
type Lane = 'batches' | 'urgent' | 'alone'

/** What a lane takes; undefined when there can be nothing for it. */
function wantedBy(lane: Lane, stream: Stream): Wanted | undefined {
  switch (lane) {
    case 'batches':
      return { batchSize: JOBS_PER_ROUND, minPriority: 0 }
    case 'urgent':
      if (stream.priority === 0) return undefined
      return { batchSize: JOBS_PER_ROUND, minPriority: jobPriority(stream.priority) + 1 }
    case 'alone':
      return { batchSize: 1, minPriority: ALONE_PRIORITY, maxPriority: ALONE_PRIORITY }
  }
}

/** What runs for one stream until it is stopped. */
export type ProcessingLane = Pick<Loop, 'start' | 'stop'>

/** The lanes of one stream: for batches, for what is more urgent, for messages processed alone, for attachments to fetch. */
export function createProcessingLanes(deps: ProcessingDeps, stream: string): ProcessingLane[] {
  const batches = createLane(deps, stream, 'batches')
  const urgent = createLane(deps, stream, 'urgent')
  const alone = createLane(deps, stream, 'alone')
  deps.bells.attach(processQueue(stream), batches.bell)
  deps.bells.attach(urgentBell(stream), urgent.bell)
  return [urgent, batches, alone, new FetchingLane(deps, stream)]
}

function createLane(deps: ProcessingDeps, streamName: string, lane: Lane): Loop {
  const queue = processQueue(streamName)
  let inHand: Claim | undefined
  return new Loop({
    name: lane === 'batches' ? queue : `${queue} ${lane}`,
    log: deps.log,
    idleMs: IDLE_MS,
    round: async () => {
      const stream = deps.catalog.current.streams.get(streamName)
      const wanted = stream && wantedBy(lane, stream)
      if (stream === undefined || wanted === undefined) return false
      let early: Promise<Batch | undefined> | undefined
      inHand ??= await claimJobs(deps, queue, wanted, {
        fetched: (jobs) => {
          const fresh = freshJobs(lane, jobs)
          if (lane !== 'alone' && isSmall(fresh))
            early = readBatch(deps, streamName, fresh).catch(() => undefined)
        },
        recorded: (claim) => {
          inHand = claim
        },
      })
      if (inHand === undefined) return false
      reached('processing.claimed')
      try {
        await processClaim(deps, stream, lane, inHand, early)
      } catch (error) {
        if (!isLastingFault(error)) throw error
        deps.log.error({ queue, jobs: inHand.jobs.length, error }, 'processing failed for good')
        await setApart(deps, stream, lane, inHand)
      }
      const isFull = inHand.jobs.length === wanted.batchSize
      inHand = undefined
      return isFull
    },
  })
}

async function processClaim(
  deps: ProcessingDeps,
  stream: Stream,
  lane: Lane,
  claim: Claim,
  early: Promise<Batch | undefined> | undefined,
): Promise<void> {
  const fresh = freshJobs(lane, claim.jobs)
  const returned = claim.jobs.filter((job) => !fresh.includes(job))
  if (returned.length > 0) await splitJobs(deps, processQueue(stream.name), { ...claim, jobs: returned })
  if (fresh.length === 0) return
  const batch = (await early) ?? (await readBatch(deps, stream.name, fresh))
  await processBatch(deps, stream, { ...claim, jobs: fresh }, batch)
}

/** Without those that came back: also of one message, it would take its company with it each time its worker dies. */
function freshJobs(lane: Lane, jobs: readonly Job[]): readonly Job[] {
  return lane === 'alone' ? jobs : jobs.filter((job) => job.retryCount === 0)
}

/** So few messages that reading them cannot cost a worker its life, which is counted from the claim's commit on. */
function isSmall(jobs: readonly Job[]): boolean {
  return jobs.reduce((sum, job) => sum + job.data.ids.length, 0) <= EARLY_MESSAGES
}

/** Each message of a batch that came back from a dead worker gets a job of its own. */
async function splitJobs(deps: ProcessingDeps, queue: string, claim: Claim): Promise<void> {
  const isDone = await inTransaction(deps.db, async (trx) => {
    if (!(await finishJobs(deps, trx, queue, claim))) return false
    const ids = claim.jobs.flatMap((job) => job.data.ids)
    await insertSingly(deps, trx, queue, ids, ALONE_PRIORITY)
    return true
  })
  if (!isDone) return
  deps.log.warn({ queue, jobs: claim.jobs.length }, 'batch of a dead worker split into single messages')
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
async function setApart(deps: ProcessingDeps, stream: Stream, lane: Lane, claim: Claim): Promise<void> {
  if (lane !== 'alone') return splitJobs(deps, processQueue(stream.name), claim)
  const ids = claim.jobs.flatMap((job) => job.data.ids)
  const decided = ids.map((id) => deadRow(id, 'processing_failed', FAILURE_REASON))
  await storeDecided(deps, stream, claim, decided, NONE_LATER)
}

/** Messages that nothing was decided of yet: each goes to another lane. */
type Later = { readonly alone: readonly string[]; readonly fetching: readonly string[] }
const NONE_LATER: Later = { alone: [], fetching: [] }

async function storeDecided(
  deps: ProcessingDeps,
  stream: Stream,
  claim: Claim,
  decided: readonly ProcessedRow[],
  later: Later,
): Promise<void> {
  const queue = processQueue(stream.name)
  const [first = [], ...others] = slicesOf(decided)
  const isAll = others.length + later.alone.length + later.fetching.length === 0
  const stored = await inTransaction(deps.db, async (trx) => {
    const { end, ids } = await storeProcessed(trx, first, { claim: claimedJobs(queue, claim), isLast: isAll })
    if (end === 'lost') {
      tellLost(deps, queue, claim)
      return []
    }
    const kept = new Set(ids)
    for (const slice of others) for (const id of (await storeProcessed(trx, slice)).ids) kept.add(id)
    await insertSingly(deps, trx, queue, later.alone, ALONE_PRIORITY)
    await insertSingly(deps, trx, queue, later.fetching, FETCHING_PRIORITY)
    return decided.filter((row) => kept.has(row.id))
  })
  reached('processing.committed')
  report(deps, stream, stored)
  if (later.fetching.length > 0) deps.bells.ring(fetchingBell(stream.name))
}

/** A statement is one string, and strings have an end: what was rendered goes in slices of bounded size. */
function slicesOf(rows: readonly ProcessedRow[]): ProcessedRow[][] {
  const slices: ProcessedRow[][] = []
  let slice: ProcessedRow[] = []
  let chars = 0
  for (const row of rows) {
    slice.push(row)
    const { html, text, sealed } = row.prepared ?? {}
    chars += (html?.length ?? 0) + (text?.length ?? 0) + (sealed?.length ?? 0)
    if (chars <= SLICE_CHARS) continue
    slices.push(slice)
    slice = []
    chars = 0
  }
  if (slice.length > 0) slices.push(slice)
  return slices
}

function report(deps: ProcessingDeps, stream: Stream, stored: readonly ProcessedRow[]): void {
  const flow = { stage: 'processing', stream: stream.name, provider: '' }
  deps.meter.wentOut(flow, stored.length)
  deps.meter.happened('processed', flow, stored.length)
  for (const status of ['dead', 'suppressed'] as const) {
    deps.meter.happened(status, flow, stored.filter((row) => row.status === status).length)
  }
  for (const [provider, rows] of Map.groupBy(stored, (row) => row.provider)) {
    if (provider === null) continue
    deps.meter.cameIn({ stage: 'dispatch', stream: stream.name, provider }, rows.length)
    deps.bells.ring(dispatchQueue(provider, stream.name))
  }
  for (const row of stored) {
    if (row.status === 'dead') {
      deps.log.warn(
        {
          message: row.id,
          stage: 'processing',
          code: row.code,
          template: row.template,
          version: row.template_version,
        },
        'message is dead',
      )
    }
  }
}
