import type { Database } from '../db/pool.ts'
import { inTransaction } from '../db/transaction.ts'
import type { Meter } from '../meter.ts'
import { type Boss, within } from '../queue/boss.ts'
import * as queries from './queries.ts'
import { withoutSuppressed } from './suppression.ts'

/** One message that this worker may send once. */
export type Claim = {
  readonly queue: string
  readonly job: { readonly id: string; readonly retryCount: number }
  readonly message: queries.ClaimedMessage
  readonly worker: number
}

export type ClaimPlace = { readonly queue: string; readonly provider: string; readonly stream: string }

type ClaimDeps = {
  readonly db: Database
  readonly boss: Boss
  readonly meter: Meter
  readonly worker: () => number
}

/**
 * Fetches up to `count` jobs and marks their messages as being sent, in one transaction. When that fails, `onDoubt`
 * is told which claims were made in it: if only the answer to the commit was lost, they are ours.
 */
export async function claimMail(
  deps: ClaimDeps,
  { queue, provider, stream }: ClaimPlace,
  count: number,
  onDoubt: (claims: readonly Claim[]) => void,
): Promise<readonly Claim[]> {
  const { db, boss } = deps
  const worker = deps.worker()
  let claims: readonly Claim[] = []
  let [idleJobs, suppressed] = [0, 0]
  try {
    await inTransaction(db, async (trx) => {
      const jobs = await boss.fetch(queue, { batchSize: count, ...within(trx) })
      if (jobs.length === 0) return
      const ids = jobs.map((job) => job.id)
      const taken = await queries.claimMessages(trx, ids, worker, provider)
      const messages = await withoutSuppressed(trx, stream, taken)
      const claimed = new Map(messages.map((message) => [message.id, message]))
      // A job whose message may not be sent (canceled, suppressed, sent already) has nothing left to do.
      const idle = jobs.filter((job) => !claimed.has(job.id))
      if (idle.length > 0) await boss.deleteJob(queue, idle, within(trx))
      idleJobs = idle.length
      suppressed = taken.length - messages.length
      claims = jobs.flatMap((job) => {
        const message = claimed.get(job.id)
        return message === undefined ? [] : [{ queue, job, message, worker }]
      })
    })
  } catch (error) {
    onDoubt(claims)
    throw error
  }
  const [, waitedFor = provider] = queue.split('.')
  deps.meter.wentOut({ stage: 'dispatch', stream, provider: waitedFor }, idleJobs)
  deps.meter.happened('suppressed', { stream, provider }, suppressed)
  return claims
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
