import type { Database } from '../db/pool.ts'
import { inTransaction, type Transaction } from '../db/transaction.ts'
import type { Log } from '../log.ts'
import { type Boss, within } from '../queue/boss.ts'
import type { ProcessJob } from '../queue/queues.ts'
import type { Sealer } from '../sealer.ts'
import * as queries from './queries.ts'
import { type ClaimedJobs, endJobs } from './store-queries.ts'

/** Jobs of one message that must be processed alone; the ordinary loop does not see them. */
export const ALONE_PRIORITY = -1
/** Jobs of one message whose attachments are to be fetched first. */
export const FETCHING_PRIORITY = -2

export type ClaimDeps = {
  readonly db: Database
  readonly boss: Boss
  readonly log: Log
  /** This worker's number, as registered now. */
  readonly worker: () => number
  /** Absent: no keys, so sensitive mail cannot be read. */
  readonly sealer?: Sealer
}

export type Job = { readonly id: string; readonly retryCount: number; readonly data: ProcessJob }

/** Jobs claimed together, and the number they were claimed under. */
export type Claim = {
  readonly jobs: readonly Job[]
  readonly worker: number
  /** By the mover, for a time (see queue/handover.ts): afterwards this very worker may have claimed the job anew, in another lane. */
  readonly isHanded: boolean
}

/** Which jobs of a queue to take. */
export type Wanted = {
  readonly batchSize: number
  readonly minPriority?: number
  readonly maxPriority?: number
}

export type OnClaiming = {
  /**
   * These will be claimed, if nothing comes between: what is only read can be read meanwhile. A death that comes of it is not counted
   * as one that the job has caused, which only those are that come after the commit.
   */
  readonly fetched?: (jobs: readonly Job[]) => void
  /** Told before the commit: when the answer to it is lost, nobody knows whether the jobs are claimed, and settling them finds out. */
  readonly recorded: (claim: Claim) => void
}

export async function claimJobs(
  deps: ClaimDeps,
  queue: string,
  wanted: Wanted,
  on: OnClaiming,
): Promise<Claim | undefined> {
  const worker = deps.worker()
  return inTransaction(deps.db, async (trx) => {
    const jobs: Job[] = await deps.boss.fetch<ProcessJob>(queue, { ...wanted, ...within(trx) })
    if (jobs.length === 0) return undefined
    on.fetched?.(jobs)
    const ids = jobs.map((job) => job.id)
    await queries.recordClaims(trx, queue, ids, worker)
    const claim = { jobs, worker, isHanded: false }
    on.recorded(claim)
    return claim
  })
}

/** False when the jobs were given back meanwhile (this worker was taken for dead): nothing is settled then. */
export async function finishJobs(
  deps: ClaimDeps,
  trx: Transaction,
  queue: string,
  claim: Claim,
): Promise<boolean> {
  const end = await endJobs(trx, claimedJobs(queue, claim))
  if (end === 'lost') tellLost(deps, queue, claim)
  return end === 'ended'
}

export function claimedJobs(queue: string, { jobs, ...claim }: Claim): ClaimedJobs {
  return { queue, jobIds: jobs.map((job) => job.id), ...claim }
}

export function tellLost({ log }: ClaimDeps, queue: string, { jobs }: Claim): void {
  log.warn({ queue, jobs: jobs.length }, 'claim lost while processing; leaving it to others')
}

/** A job of its own for each of these messages. */
export async function insertSingly(
  deps: ClaimDeps,
  trx: Transaction,
  queue: string,
  ids: readonly string[],
  priority: number,
): Promise<void> {
  if (ids.length === 0) return
  const jobs = ids.map((id) => ({ data: { ids: [id] }, priority }))
  await deps.boss.insert(queue, jobs, within(trx))
}
