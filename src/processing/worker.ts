import type { Catalog, Stream } from '../catalog.ts'
import { reached } from '../crash-point.ts'
import { isLastingFault } from '../db/sqlstate.ts'
import { inTransaction, type Transaction } from '../db/transaction.ts'
import { Loop } from '../loop.ts'
import { dispatchQueue, jobPriority, processQueue, urgentBell } from '../queue/queues.ts'
import { NO_KEYS } from '../sealer.ts'
import type { UnsubscribeLinks } from '../unsubscribe-links.ts'
import {
  ALONE_PRIORITY,
  type Claim,
  claimJobs,
  FETCHING_PRIORITY,
  finishJobs,
  insertSingly,
  type Wanted,
} from './claims.ts'
import { type FetchingDeps, FetchingLane, fetchingBell, hasRemote } from './fetching-lane.ts'
import { prepareBatch } from './prepare.ts'
import * as queries from './queries.ts'
import type { RenderPool } from './render/render-pool.ts'
import { openLoaded, sealProcessed } from './sensitive.ts'

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
/** A message that was being processed when its worker died, this many times over, is not tried again. */
const FATAL_DEATHS = 3
const DEATHS_REASON = `The worker died ${FATAL_DEATHS} times while it processed this message; look at its template and data before retrying.`
const FAILURE_REASON =
  'Processing failed in an unforeseen way, also with this message alone; the log has the details.'
const SLICE_CHARS = 16_000_000

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
      inHand ??= await claimJobs(deps, queue, wanted, (claim) => {
        inHand = claim
      })
      if (inHand === undefined) return false
      reached('processing.claimed')
      try {
        await processClaim(deps, stream, lane, inHand)
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

async function processClaim(deps: ProcessingDeps, stream: Stream, lane: Lane, claim: Claim): Promise<void> {
  // A job of one message too: in company it would take the others with it each time its worker dies.
  const [returned, fresh] = partition(claim.jobs, (job) => lane !== 'alone' && job.retryCount > 0)
  if (returned.length > 0) await splitJobs(deps, processQueue(stream.name), { ...claim, jobs: returned })
  if (fresh.length > 0) await processJobs(deps, stream, { ...claim, jobs: fresh })
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

async function processJobs(deps: ProcessingDeps, stream: Stream, claim: Claim): Promise<void> {
  const { jobs } = claim
  const batch = await queries.loadAccepted(
    deps.db,
    jobs.flatMap((job) => job.data.ids),
  )
  const killers = new Set(jobs.filter((job) => job.retryCount >= FATAL_DEATHS).flatMap((job) => job.data.ids))
  // Not even looked at again: that is what its workers died of.
  const [doomed, living] = partition(batch, ({ id }) => killers.has(id))
  const { sealer = NO_KEYS } = deps
  const { opened: others, unreadable } = openLoaded(sealer, living)
  const fetching = await findUnfetched(deps, others)
  const rest = others.filter(({ id }) => !fetching.has(id))
  if (!stream.route.some((name) => deps.catalog.current.providers.has(name))) await deps.catalog.refresh()
  const { rows, deferred } = await prepareBatch(deps, stream, deps.catalog.current.providers, rest)
  reached('processing.prepared')
  const secret = new Set(others.filter(({ message }) => message.sensitive).map(({ id }) => id))
  const decided = [
    ...rows.map((row) => (secret.has(row.id) ? sealProcessed(sealer, row) : row)),
    ...doomed.map(({ id }) => queries.deadRow(id, 'worker_died', DEATHS_REASON)),
    ...unreadable.map(({ id, fault }) => queries.deadRow(id, fault.code, fault.message)),
  ]
  await storeDecided(deps, stream, claim, decided, { alone: deferred, fetching: [...fetching] })
}

/** Those whose attachments have to be fetched before anything else; few messages name any by URL. */
async function findUnfetched(
  deps: ProcessingDeps,
  batch: readonly queries.AcceptedMessage[],
): Promise<Set<string>> {
  const remote = new Set(batch.filter(({ message }) => hasRemote(message)).map(({ id }) => id))
  if (remote.size > 0) for (const id of await queries.findFetched(deps.db, [...remote])) remote.delete(id)
  return remote
}

/** What failed in a way that will come again: the messages of a batch singly, a single one as a dead letter. */
async function setApart(deps: ProcessingDeps, stream: Stream, lane: Lane, claim: Claim): Promise<void> {
  if (lane !== 'alone') return splitJobs(deps, processQueue(stream.name), claim)
  const ids = claim.jobs.flatMap((job) => job.data.ids)
  const decided = ids.map((id) => queries.deadRow(id, 'processing_failed', FAILURE_REASON))
  await storeDecided(deps, stream, claim, decided, NONE_LATER)
}

/** Messages that nothing was decided of yet: each goes to another lane. */
type Later = { readonly alone: readonly string[]; readonly fetching: readonly string[] }
const NONE_LATER: Later = { alone: [], fetching: [] }

async function storeDecided(
  deps: ProcessingDeps,
  stream: Stream,
  claim: Claim,
  decided: readonly queries.ProcessedRow[],
  later: Later,
): Promise<void> {
  const queue = processQueue(stream.name)
  const stored = await inTransaction(deps.db, async (trx) => {
    // First the jobs: if they are no longer ours, a rescuer gave them to someone else.
    if (!(await finishJobs(deps, trx, queue, claim))) return []
    const kept = await storeInSlices(trx, decided)
    await insertSingly(deps, trx, queue, later.alone, ALONE_PRIORITY)
    await insertSingly(deps, trx, queue, later.fetching, FETCHING_PRIORITY)
    reached('processing.before-commit')
    return decided.filter((row) => kept.has(row.id))
  })
  reached('processing.committed')
  report(deps, stream, stored)
  if (later.fetching.length > 0) deps.bells.ring(fetchingBell(stream.name))
}

/** A statement is one string, and strings have an end: what was rendered goes in slices of bounded size. */
async function storeInSlices(trx: Transaction, rows: readonly queries.ProcessedRow[]): Promise<Set<string>> {
  const kept = new Set<string>()
  let slice: queries.ProcessedRow[] = []
  let chars = 0
  const flush = async () => {
    if (slice.length > 0) for (const id of await queries.storeProcessed(trx, slice)) kept.add(id)
    slice = []
    chars = 0
  }
  for (const row of rows) {
    slice.push(row)
    const { html, text, sealed } = row.prepared ?? {}
    chars += (html?.length ?? 0) + (text?.length ?? 0) + (sealed?.length ?? 0)
    if (chars > SLICE_CHARS) await flush()
  }
  await flush()
  return kept
}

function report(deps: ProcessingDeps, stream: Stream, stored: readonly queries.ProcessedRow[]): void {
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

function partition<T>(items: readonly T[], test: (item: T) => boolean): [T[], T[]] {
  const yes: T[] = []
  const no: T[] = []
  for (const item of items) (test(item) ? yes : no).push(item)
  return [yes, no]
}
