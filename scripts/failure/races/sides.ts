import { sql } from 'kysely'
import type { Transaction } from '../../../src/db/transaction.ts'
import { type ClaimedMessage, claimMessages, storeSettlements } from '../../../src/dispatch/queries.ts'
import { withoutSuppressed } from '../../../src/dispatch/suppression.ts'
import { applyFeedback } from '../../../src/feedback/apply.ts'
import { loadAccepted, recordClaims } from '../../../src/processing/queries.ts'
import { type ProcessedRow, storeProcessed } from '../../../src/processing/store-queries.ts'
import { type Boss, within } from '../../../src/queue/boss.ts'
import { enqueueProcessing } from '../../../src/queue/processing-jobs.ts'
import { dispatchQueue, processQueue } from '../../../src/queue/queues.ts'
import { lockDue, release } from '../../../src/schedule/queries.ts'
import { forgetWorker, rescueMessages } from '../../../src/upkeep/queries.ts'
import { eventOf } from '../../../test/support/feedback.ts'
import type { Side } from './interleave.ts'

const DISPATCH = dispatchQueue('default', 'transactional')
const PROCESS = processQueue('transactional')

/** The message a race is about. */
export type Subject = {
  readonly id: string
  readonly address: string
  /** Claimed before the race, by the worker that may be rescued. */
  readonly claim?: ClaimedMessage
}
export type Players = { readonly boss: Boss; readonly subject: Subject; readonly worker: number }
export type MakeSide = (players: Players) => Side

/** What a dispatcher does when it claims (dispatch/claims.ts). */
export const claim: MakeSide = ({ boss, worker }) => ({
  pauses: 2,
  act: async (trx, pause) => {
    const jobs = await boss.fetch(DISPATCH, { batchSize: 10, ...within(trx) })
    await pause()
    const ids = jobs.map((job) => job.id)
    const taken = ids.length === 0 ? [] : await claimMessages(trx, ids, worker, 'default')
    const claimed = await withoutSuppressed(trx, 'transactional', taken)
    await pause()
    const idle = jobs.filter((job) => !claimed.some(({ id }) => id === job.id))
    if (idle.length > 0) await boss.deleteJob(DISPATCH, idle, within(trx))
    return claimed.length > 0 ? 'claimed' : 'nothing'
  },
})

/** What processing does from its claim to its end (processing/worker.ts). */
export const process: MakeSide = ({ boss, worker, subject: { id } }) => ({
  pauses: 3,
  act: async (trx, pause) => {
    const jobs = await boss.fetch(PROCESS, { batchSize: 10, ...within(trx) })
    if (jobs.length === 0) return 'nothing'
    const jobIds = jobs.map((job) => job.id)
    await recordClaims(trx, PROCESS, jobIds, worker)
    await pause()
    const loaded = await loadAccepted(trx, [id])
    await pause()
    const rows = loaded.length === 0 ? [] : [processed(id)]
    const { ids } = await storeProcessed(trx, rows, {
      claim: { queue: PROCESS, jobIds, isHanded: false, worker },
    })
    await pause()
    return ids.has(id) ? 'queued' : 'nothing'
  },
})

function processed(id: string): ProcessedRow {
  const none = { template: null, template_version: null, partials: null, code: null, reason: null }
  const prepared = { subject: null, html: null, text: null, left_out: null, sender: null, reply_to: null }
  return {
    ...none,
    ...{ id, status: 'queued', provider: 'default', recipient_domain: 'example.net' },
    prepared: { ...prepared, list_unsubscribe: null },
  }
}

/** What the scheduler does (schedule/scheduler.ts). */
export const releaseDue: MakeSide = () => ({
  pauses: 2,
  act: async (trx, pause) => {
    const due = await lockDue(trx, 10)
    await pause()
    const messages = due.length === 0 ? [] : await release(trx, due)
    await pause()
    await enqueueProcessing(trx, messages)
    return messages.length > 0 ? 'released' : 'nothing'
  },
})

/** What the settler does with one outcome (dispatch/settler.ts). */
export function settle(status: 'sent' | 'deferred'): MakeSide {
  return ({ boss, worker, subject: { id, claim } }) => ({
    pauses: 1,
    act: async (trx, pause) => {
      const base = {
        id,
        attempt: 1,
        claimedAt: claim?.claimed_at ?? '',
        countsAsAttempt: true,
        isPartlySettled: false,
      }
      const nothing = {
        providerMessageId: null,
        providerRef: null,
        code: null,
        reason: null,
        recipientDomain: null,
      }
      const delayMs = status === 'deferred' ? 1_000 : null
      const outcome = { ...base, ...nothing, status, delayMs, events: [{ type: status }] } as const
      const settled = await storeSettlements(trx, [outcome], worker)
      await pause()
      if (settled.length === 0) return 'too late'
      await boss.deleteJob(DISPATCH, id, within(trx))
      if (status === 'deferred') await boss.insert(DISPATCH, [{ id }], within(trx))
      return 'settled'
    },
  })
}

/** What a rescuer does with a dead worker (upkeep/rescue.ts). */
export const rescue: MakeSide = ({ boss, worker }) => ({
  pauses: 2,
  act: async (trx, pause) => {
    const dead = await trx
      .selectFrom('mail.worker')
      .select(['number', 'lock_key'])
      .where('number', '=', worker)
      .executeTakeFirst()
    if (dead !== undefined) await forgetWorker(trx, dead)
    await pause()
    const messages = await rescueMessages(trx, worker)
    await pause()
    const ids = messages.map(({ id }) => id)
    if (ids.length > 0) await boss.deleteJob(DISPATCH, ids, within(trx))
    const jobs = messages.filter(({ status }) => status === 'queued').map(({ id }) => ({ id }))
    if (jobs.length > 0) await boss.insert(DISPATCH, jobs, within(trx))
    return ids.length > 0 ? 'rescued' : 'nothing'
  },
})

/** A provider says that the message arrived (feedback/apply.ts). */
export const webhook: MakeSide = ({ subject: { id, address } }) => ({
  pauses: 0,
  act: async (trx) => {
    await applyFeedback(trx, [eventOf(id, 'delivered', { recipient: address })])
    return 'told'
  },
})

/** What a person says in psql; the answer is the one value it gives. */
function said(statement: (subject: Subject) => ReturnType<typeof sql<{ answer: unknown }>>): MakeSide {
  return ({ subject }) => ({
    pauses: 0,
    act: async (trx: Transaction) => {
      const { rows } = await statement(subject).execute(trx)
      return String(rows[0]?.answer ?? '')
    },
  })
}

export const cancel = said(({ id }) => sql`select mail.cancel(${id}::uuid) as answer`)
export const reschedule = said(
  ({ id }) => sql`select mail.reschedule(${id}::uuid, now() + interval '1 hour') as answer`,
)
export const retry = said(({ id }) => sql`select mail.dlq_retry(${id}::uuid) as answer`)
export const discard = said(({ id }) => sql`select mail.dlq_discard(${id}::uuid) as answer`)
export const settleSent = said(({ id }) => sql`select mail.settle_unknown(${id}::uuid, 'sent') as answer`)
export const settleRetry = said(({ id }) => sql`select mail.settle_unknown(${id}::uuid, 'retry') as answer`)
export const pauseStream = said(
  () => sql`select 'paused' as answer from mail.pause('transactional', 'stream')`,
)
export const changeRoute = said(
  () =>
    sql`update mail.stream set route = array['other'] where name = 'transactional' returning 'routed' as answer`,
)
export const suppress = said(({ address }) => sql`select 'listed' as answer from mail.suppress(${address})`)
export const erase = said(
  ({ address }) =>
    sql`select case when bool_or(is_left) then 'left' else 'erased' end as answer from mail.erase(${address})`,
)
export const retain = said(
  () => sql`select coalesce((select string_agg(relation, ',') from mail.retain()), 'nothing') as answer`,
)
export function sendWithKey(text: string): MakeSide {
  return said(
    ({ address }) => sql`select 'given' as answer from mail.send(
      json_build_object('from', 'shop@example.com', 'to', ${address}::text, 'subject', 'Hi', 'text', ${text}::text)::jsonb, ${address}::text
    )`,
  )
}
