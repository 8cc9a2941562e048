import type { Catalog, Stream } from '../catalog.ts'
import { reached } from '../crash-point.ts'
import type { Clock } from '../database-clock.ts'
import type { Database } from '../db/pool.ts'
import { inTransaction, type Transaction } from '../db/transaction.ts'
import { type Lifeline, SendingHeldError } from '../lifeline.ts'
import type { Meter } from '../meter.ts'
import { type Boss, within } from '../queue/boss.ts'
import type { Look, QueueFront } from '../queue/queue-front.ts'
import { jobPriority } from '../queue/queues.ts'
import { isUrgent } from '../urgency.ts'
import { type PutBack, putBackLimited, type Turn } from './domain-limits.ts'
import { type FetchedJob, fetchJobs } from './job-queries.ts'
import * as queries from './queries.ts'
import { withoutSuppressed } from './suppression.ts'

/** One message that this worker may send once. */
export type Claim = {
  readonly queue: string
  readonly job: { readonly id: string; readonly retryCount: number }
  readonly message: queries.ClaimedMessage
  readonly worker: number
  /** For how long it waited for nothing but its stream's send window. */
  readonly closedMs: number
}

/** Where mail is claimed from, and through whom it is to go. */
export type ClaimPlace = {
  readonly queue: string
  readonly provider: string
  readonly stream: Stream
}

/** With where in the queue to look. */
export type FetchPlace = ClaimPlace & { readonly front: QueueFront; readonly look: Look }

export type ClaimDeps = {
  readonly db: Database
  readonly boss: Boss
  readonly meter: Meter
  readonly clock: Clock
  readonly catalog: { readonly current: Catalog }
  readonly lifeline: Pick<Lifeline, 'noteClaims'>
  readonly worker: () => number
}

export type Claimed = {
  readonly claims: readonly Claim[]
  /** How many jobs were taken from the queue; those that are not claims had nothing to send, or have to wait. */
  readonly fetched: number
  /** In how long the last of those comes back that have to wait for a limited domain; 0 without any. */
  readonly comesBackMs: number
}

/** With what is counted once it is committed. */
export type FetchedClaims = Claimed & { readonly idleJobs: number; readonly suppressed: number }

const NOTHING: FetchedClaims = { claims: [], fetched: 0, comesBackMs: 0, idleJobs: 0, suppressed: 0 }

/**
 * Fetches up to `count` jobs and marks their messages as being sent, in one transaction; what has to wait for a limited
 * domain is put back in the same. When that fails, `onDoubt` is told which claims were made in it: if only the answer
 * to the commit was lost, they are ours. While nothing may be sent, nothing is taken.
 */
export async function claimMail(
  deps: ClaimDeps,
  place: FetchPlace,
  count: number,
  onDoubt: (claims: readonly Claim[]) => void,
): Promise<Claimed> {
  const { queue, front, look } = place
  let claimed = NOTHING
  try {
    await inTransaction(deps.db, async (trx) => {
      const startedAt = performance.now()
      const jobs = await fetchJobs(trx, queue, count, look)
      const found = jobs.map((job) => ({ priority: job.priority, position: job.created_ms }))
      front.end(look, performance.now() - startedAt, found)
      if (jobs.length > 0) claimed = await claimFetched(deps, trx, place, jobs)
    })
  } catch (error) {
    // Rolled back: the jobs are as they were.
    if (error instanceof SendingHeldError) return NOTHING
    onDoubt(claimed.claims)
    throw error
  }
  noteCommitted(deps, place, claimed)
  return claimed
}

/** Marks the messages of jobs that were fetched in this transaction as being sent. Throws a SendingHeldError while nothing may be sent. */
export async function claimFetched(
  deps: ClaimDeps,
  trx: Transaction,
  { queue, provider, stream }: ClaimPlace,
  jobs: readonly Pick<FetchedJob, 'id' | 'retryCount' | 'data'>[],
): Promise<FetchedClaims> {
  const { boss, catalog } = deps
  const worker = deps.worker()
  const ids = jobs.map((job) => job.id)
  const taken = await queries.claimMessages(trx, ids, worker, provider)
  const messages = await withoutSuppressed(trx, stream.name, taken)
  const claimed = new Map(messages.map((message) => [message.id, message]))
  const taking = jobs.flatMap((job) => {
    const message = claimed.get(job.id)
    return message === undefined ? [] : [{ queue, job, message, worker }]
  })
  const putBack = await putBackLimited(
    trx,
    { limits: catalog.current.domainLimits, provider, isUrgent: isUrgent(stream) },
    taking.map(({ message, job }) => ({ message, turn: job.data ?? undefined })),
  )
  // A job whose message may not be sent (canceled, suppressed, sent already) has nothing left to do.
  const idle = jobs.filter((job) => !claimed.has(job.id))
  const waiting = jobs.filter((job) => putBack.has(job.id))
  const gone = [...idle, ...waiting]
  if (gone.length > 0) await boss.deleteJob(queue, gone, within(trx))
  const again = messages.flatMap((message) => jobAgain(message, putBack.get(message.id)))
  if (again.length > 0) await boss.insert(queue, again, within(trx))
  const closedMs = await closedTimes(trx, stream, messages, deps.clock.now())
  const claims = taking
    .filter(({ message }) => !putBack.has(message.id))
    .map((claim) => ({ ...claim, closedMs: closedMs.get(claim.message.id) ?? 0 }))
  reached('dispatch.before-claim-commit')
  return {
    claims,
    fetched: jobs.length,
    comesBackMs: Math.max(0, ...[...putBack.values()].map(({ waitMs }) => waitMs)),
    idleJobs: idle.length,
    suppressed: taken.length - messages.length,
  }
}

/** Once they are committed: tells of the claims, and counts what had nothing to send. */
export function noteCommitted(
  { lifeline, meter }: ClaimDeps,
  { queue, provider, stream }: ClaimPlace,
  { claims, idleJobs, suppressed }: FetchedClaims,
): void {
  lifeline.noteClaims(claims.map(({ message }) => ({ id: message.id, claimedAt: message.claimed_at })))
  if (claims.length > 0) reached('dispatch.claimed')
  const [, waitedFor = provider] = queue.split('.')
  meter.wentOut({ stage: 'dispatch', stream: stream.name, provider: waitedFor }, idleJobs)
  meter.happened('suppressed', { stream: stream.name, provider }, suppressed)
}

/** pg-boss has no snooze: what is put back gets a new job of the same id. */
function jobAgain({ id, priority }: queries.ClaimedMessage, putBack: PutBack | undefined) {
  if (putBack === undefined) return []
  const { because, comesAt } = putBack
  const data: Turn = { hasTurn: true, because }
  return [{ id, priority: jobPriority(priority), startAfter: new Date(comesAt), data }]
}

/** Asked only of mail that would be too old by the calendar: of a stream with send windows, closed hours do not count. */
async function closedTimes(
  trx: Transaction,
  stream: Stream,
  messages: readonly queries.ClaimedMessage[],
  now: number,
): Promise<ReadonlyMap<string, number>> {
  if (!stream.hasSendWindow) return new Map()
  const old = messages.filter((message) => now - waitsSince(message).getTime() > stream.maxAgeMs)
  if (old.length === 0) return new Map()
  return queries.readClosedTimes(
    trx,
    stream.name,
    old.map((message) => ({ id: message.id, since: waitsSince(message) })),
  )
}

export function waitsSince({ queued_at: queuedAt, accepted_at: acceptedAt }: queries.ClaimedMessage): Date {
  return queuedAt ?? acceptedAt
}

/** Those of the claims that were committed and are still this worker's, down to the moment they were made. */
export async function findOurs(db: Database, claims: readonly Claim[]): Promise<readonly Claim[]> {
  const found = await inTransaction(db, (trx) =>
    queries.readClaims(
      trx,
      claims.map(({ message }) => message.id),
    ),
  )
  const rows = new Map(found.map((row) => [row.id, row]))
  return claims.filter(({ message, worker }) => {
    const row = rows.get(message.id)
    return row?.status === 'sending' && row.worker === worker && row.claimed_at === message.claimed_at
  })
}
