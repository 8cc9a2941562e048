import type { Database } from '../db/pool.ts'
import { inTransaction, type Transaction } from '../db/transaction.ts'
import type { Log } from '../log.ts'
import { type Boss, within } from '../queue/boss.ts'
import type { ProcessJob } from '../queue/queues.ts'
import type { Sealer } from '../sealer.ts'
import * as queries from './queries.ts'

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
export type Claim = { readonly jobs: readonly Job[]; readonly worker: number }

/** Which jobs of a queue to take. */
export type Wanted = {
  readonly batchSize: number
  readonly minPriority?: number
  readonly maxPriority?: number
}

/**
 * `onFetched` is told before the commit: when the answer to it is lost, nobody knows whether the jobs are
 * claimed, and settling them finds out.
 */
export async function claimJobs(
  deps: ClaimDeps,
  queue: string,
  wanted: Wanted,
  onFetched: (claim: Claim) => void,
): Promise<Claim | undefined> {
  const worker = deps.worker()
  return inTransaction(deps.db, async (trx) => {
    const jobs: Job[] = await deps.boss.fetch<ProcessJob>(queue, { ...wanted, ...within(trx) })
    if (jobs.length === 0) return undefined
    const ids = jobs.map((job) => job.id)
    await queries.recordClaims(trx, queue, ids, worker)
    const claim = { jobs, worker }
    onFetched(claim)
    return claim
  })
}

/** False when the jobs were given back meanwhile (this worker was taken for dead): nothing is settled then. */
export async function finishJobs(
  deps: ClaimDeps,
  trx: Transaction,
  queue: string,
  { jobs, worker }: Claim,
): Promise<boolean> {
  const ids = jobs.map((job) => job.id)
  const ended = await queries.endJobs(trx, queue, ids, worker)
  if (ended === ids.length) return true
  // All or none: a rescuer takes everything a worker holds.
  if (ended > 0) throw new Error(`of ${ids.length} claims ${ended} were left`)
  deps.log.warn({ queue, jobs: ids.length }, 'claim lost while processing; leaving it to others')
  return false
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
