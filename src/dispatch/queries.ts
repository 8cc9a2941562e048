import { sql } from 'kysely'
import type { Database } from '../db/pool.ts'
import { NotRegisteredError, registration } from '../db/registration.ts'
import type { Transaction } from '../db/transaction.ts'
import { unforeseen } from '../db/unforeseen.ts'
import { SendingHeldError, sendingGate } from '../lifeline.ts'
import type { Address, Attachment, Message } from '../message/message.ts'
import type { EventType, MessageState } from '../states.ts'
import type { ContentSlice } from './attachment-store.ts'

/** A message claimed for one attempt, with all that is needed to send it. */
export type ClaimedMessage = {
  readonly id: string
  /** The attempt this claim begins, from 1. */
  readonly attempt: number
  /** When it was claimed, to the microsecond: no two claims of a message have the same. */
  readonly claimed_at: string
  readonly accepted_at: Date
  /** When it was accepted, or the moment it was scheduled for. */
  readonly due_at: Date
  /** Since when it waits to be sent: acceptance, or the latest retry of a dead letter. */
  readonly queued_at: Date | null
  readonly priority: number
  /** Of a sensitive one as it is stored, until it is opened (see sensitive.ts). */
  readonly message: Message
  readonly sealed: string | null
  readonly sealed_parts: string | null
  readonly subject: string | null
  readonly html: string | null
  readonly text: string | null
  readonly left_out: readonly string[] | null
  /** The template's, when the message names none. */
  readonly sender: Address | null
  readonly reply_to: readonly Address[] | null
  /** Instead of the message's own, when some had to be fetched. */
  readonly attachments: readonly Attachment[] | null
  /** Of the stream's making, when the message brings none. */
  readonly list_unsubscribe: string | null
  /** Recipients an earlier attempt already settled, one way or the other. */
  readonly settled: readonly string[] | null
}

type ClaimedRow = Omit<ClaimedMessage, 'settled'> & { readonly is_partly_settled: boolean }

/**
 * Marks the messages of these jobs as being sent by this worker through this provider; those that may not be sent are not returned.
 * Throws a NotRegisteredError when this worker was taken for dead, a SendingHeldError while nothing may be sent.
 */
export async function claimMessages(
  trx: Transaction,
  ids: readonly string[],
  worker: number,
  provider: string,
): Promise<ClaimedMessage[]> {
  // One row without an id when we are registered and nothing could be claimed.
  const { rows } = await sql<
    (ClaimedRow | { readonly id: null }) & { readonly is_open: boolean }
  >`/* dispatch.claim */
    with me as materialized (${registration(worker)}), gate as materialized (${sendingGate}), claimed as (
      update mail.message
      set status = 'sending', worker = me.number, attempts = attempts + 1, claimed_at = clock_timestamp(),
        provider = ${provider}, next_attempt_at = null
      from me, gate
      where gate.is_open and id = any (${ids}::uuid[]) and status in ('queued', 'deferred')
      returning id, attempts, queued_at, accepted_at, scheduled_at, claimed_at, priority, is_partly_settled
    )
    select
      gate.is_open, m.id, m.attempts as attempt, m.queued_at, m.accepted_at, greatest(m.accepted_at, m.scheduled_at) as due_at,
      m.claimed_at::text as claimed_at,
      m.priority, c.message, c.sealed, p.sealed as sealed_parts,
      p.subject, p.html, p.text, p.left_out, p.sender, p.reply_to,
      p.list_unsubscribe, p.attachments,
      m.is_partly_settled
    from me
    cross join gate
    left join (
      claimed m
      join mail.message_content c on c.id = m.id and c.id = any (${ids}::uuid[])
      left join mail.message_prepared p on p.id = m.id and p.id = any (${ids}::uuid[])
    ) on true
  `.execute(trx)
  if (rows.length === 0) throw new NotRegisteredError(worker)
  if (rows[0]?.is_open !== true) throw new SendingHeldError()
  const claimed = rows.filter((row) => row.id !== null)
  const partly = claimed.filter((row) => row.is_partly_settled).map(({ id }) => id)
  const settled = partly.length > 0 ? await readSettledRecipients(trx, partly) : NONE
  return claimed.map((row) => ({ ...row, settled: settled.get(row.id) ?? null }))
}

const NONE: ReadonlyMap<string, readonly string[]> = new Map()

async function readSettledRecipients(
  trx: Transaction,
  ids: readonly string[],
): Promise<ReadonlyMap<string, readonly string[]>> {
  const { rows } = await sql<{ id: string; recipients: string[] }>`/* dispatch.read_settled_recipients */
    select e.message_id as id, array_agg(e.recipient) as recipients
    from mail.event e
    where e.message_id = any (${ids}::uuid[]) and e.recipient is not null and (
      e.type = 'recipient_sent'
      -- Who retries a dead letter wants those tried again that were refused.
      or (e.type = 'recipient_refused' and not exists (
        select from mail.event r where r.message_id = e.message_id and r.type = 'retried' and r.at >= e.at
      ))
    )
    group by e.message_id
  `.execute(trx)
  return new Map(rows.map(({ id, recipients }) => [id, recipients]))
}

export type LateSuppression = {
  readonly id: string
  /** Lower case. */
  readonly left_out: readonly string[]
  /** Nobody is left to send it to. */
  readonly is_over: boolean
}

/**
 * Notes recipients that were suppressed after processing. A claimed message without anybody left ends here: `sent`
 * when an earlier attempt reached some recipient, else `suppressed`.
 */
export async function noteSuppressed(trx: Transaction, late: readonly LateSuppression[]): Promise<void> {
  const ids = late.map(({ id }) => id)
  await sql`/* dispatch.note_suppressed */
    with row as materialized (
      select * from json_to_recordset(${JSON.stringify(late)}::json) as row (id uuid, left_out text[], is_over boolean)
    ), ended as (
      update mail.message m
      set status = case when reached.any_of_them then 'sent' else 'suppressed' end,
        sent_at = case when reached.any_of_them then m.claimed_at end,
        worker = null,
        attempts = m.attempts - 1,
        last_error = null
      from row
      cross join lateral (
        select exists (
          select from mail.event e where e.message_id = row.id and e.type = 'recipient_sent'
        ) as any_of_them
      ) reached
      where m.id = row.id and m.id = any (${ids}::uuid[]) and row.is_over
      returning m.id, m.status
    ), each_recipient as (
      insert into mail.event (message_id, type, recipient)
      select row.id, 'suppressed', address
      from row cross join unnest(row.left_out) as address
      -- On a second attempt it is known already.
      where not exists (
        select from mail.event e
        where e.message_id = row.id and e.type = 'suppressed' and lower(e.recipient) = address
      )
    )
    insert into mail.event (message_id, type, detail)
    select id, status, json_build_object('by', 'suppression') from ended
  `.execute(trx)
}

/** For how many milliseconds until now the send windows of a stream were closed, since a moment of each message. */
export async function readClosedTimes(
  trx: Transaction,
  stream: string,
  waiting: readonly { readonly id: string; readonly since: Date }[],
): Promise<Map<string, number>> {
  const { rows } = await sql<{ id: string; ms: number }>`/* dispatch.closed_times */
    select w.id, extract(epoch from now() - w.since - mail.open_time(${stream}, w.since, now()))::double precision * 1000 as ms
    from json_to_recordset(${JSON.stringify(waiting)}::json) as w (id uuid, since timestamptz)
  `.execute(trx)
  return new Map(rows.map(({ id, ms }) => [id, ms]))
}

/** Slices of attachments' contents, each at its place; undefined where there is no such content. */
export async function readAttachments(
  db: Database,
  slices: readonly ContentSlice[],
): Promise<readonly (Buffer | undefined)[]> {
  const { rows } = await sql<{ place: number; bytes: Buffer }>`/* dispatch.read_attachments */
    select wanted.place::integer as place, substring(a.content from wanted.start + 1 for wanted.length) as bytes
    from unnest(
      ${slices.map((each) => each.sha256)}::text[],
      ${slices.map((each) => each.start)}::integer[],
      ${slices.map((each) => each.length)}::integer[]
    ) with ordinality as wanted (sha256, start, length, place)
    join mail.attachment a on a.sha256 = decode(wanted.sha256, 'hex')
  `.execute(db)
  const found = new Map(rows.map(({ place, bytes }) => [place, bytes]))
  return slices.map((_, index) => found.get(index + 1))
}

/**
 * Where these messages stand, once whoever is changing them now has ended: for a claim whose commit was
 * never answered.
 */
export async function readClaims(
  trx: Transaction,
  ids: readonly string[],
): Promise<{ id: string; status: string; worker: number | null; claimed_at: string | null }[]> {
  const { rows } = await sql<{
    id: string
    status: string
    worker: number | null
    claimed_at: string | null
  }>`
    /* dispatch.read_claims */
    select id, status, worker, claimed_at::text as claimed_at from mail.message where id = any (${ids}::uuid[]) order by id for update
  `.execute(trx)
  return rows
}

export type SettledEvent = {
  readonly type: EventType
  readonly recipient?: string
  readonly detail?: Readonly<Record<string, unknown>>
}

/** What one attempt came to, as it is written. */
export type Settlement = {
  readonly id: string
  readonly attempt: number
  readonly claimedAt: string
  readonly status: MessageState & ('sent' | 'deferred' | 'unknown' | 'dead')
  /** An attempt that never reached the provider is taken back. */
  readonly countsAsAttempt: boolean
  readonly providerMessageId: string | null
  /** In the one form in which events bring it; of those alone whose events name it. */
  readonly providerRef: string | null
  readonly code: string | null
  readonly reason: string | null
  /** For `deferred`: from the moment it is written. */
  readonly delayMs: number | null
  readonly recipientDomain: string | null
  /** Some recipients are done with, and are not tried again; the events say which. */
  readonly isPartlySettled: boolean
  readonly events: readonly SettledEvent[]
}

/** A message that was settled; with content that its stream keeps no longer, removeContent is to follow. */
export type Settled = { readonly id: string; readonly is_content_over: boolean }

const REFERRED = sql`referred as (
      insert into mail.provider_ref (message_id, provider, provider_message_id)
      select row.id, settled.provider, row."providerRef" from row join settled using (id) where row."providerRef" is not null
    )`

const BURIED = sql`dead as (
      insert into mail.dead_letter (
        message_id, stage, code, reason, attempts, stream, provider, template, template_version, source, recipient_domain
      )
      select
        row.id, 'dispatch', row.code, row.reason, settled.attempts, settled.stream, settled.provider, settled.template,
        settled.template_version, settled.source, row."recipientDomain"
      from row join settled using (id)
      where row.status = 'dead'
    )`

/**
 * Writes a bundle of settlements in one statement and returns those that were still this worker's. A
 * worker that was taken for dead finds its messages gone and settles nothing. The moment of the claim is the
 * fence: the number of an attempt that cost none comes again, and so may the answer to a commit that was lost.
 */
export async function storeSettlements(
  trx: Transaction,
  settlements: readonly Settlement[],
  worker: number,
): Promise<readonly Settled[]> {
  const ids = settlements.map((each) => each.id)
  // Left out where there is nothing for them: the planner takes its time for each part of a statement.
  const parts = [
    ...(settlements.some(({ providerRef }) => providerRef !== null) ? [REFERRED] : []),
    ...(settlements.some(({ status }) => status === 'dead') ? [BURIED] : []),
  ]
  const { rows } = await sql<Settled>`/* dispatch.settle */
    with row as materialized (
      select *
      from json_to_recordset(${JSON.stringify(settlements)}::json) as row (
        id uuid, attempt smallint, "claimedAt" timestamptz, status text, "countsAsAttempt" boolean, "providerMessageId" text,
        "providerRef" text, code text, reason text, "delayMs" bigint, "recipientDomain" text, "isPartlySettled" boolean, events json
      )
    ), kept as materialized (
      select name as stream, content_days = 0 as is_bare, mail.over_before(content_days) as over_before from mail.stream
    ), settled as (
      update mail.message m
      set status = row.status,
        worker = null,
        attempts = case when row."countsAsAttempt" then m.attempts else m.attempts - 1 end,
        provider_message_id = row."providerMessageId",
        last_error = row.code,
        is_partly_settled = m.is_partly_settled or row."isPartlySettled",
        sent_at = case row.status when 'sent' then clock_timestamp() end,
        next_attempt_at = case row.status when 'deferred' then clock_timestamp() + row."delayMs" * interval '1 millisecond' end
      from row
      where m.id = row.id and m.id = any (${ids}::uuid[])
        and ${unforeseen(sql`m.status = 'sending' and m.worker = ${worker}`)} and m.claimed_at = row."claimedAt"
      returning m.id, m.status, m.attempts, m.stream, m.provider, m.template, m.template_version, m.source
    ), happened as (
      insert into mail.event (message_id, type, recipient, detail)
      select row.id, event.type, event.recipient, event.detail
      from row
      join settled using (id)
      cross join json_to_recordset(row.events) as event (type text, recipient text, detail json)
    )${parts.length > 0 ? sql`, ${sql.join(parts)}` : sql``}
    select
      settled.id,
      settled.status = 'sent' and coalesce(kept.is_bare or settled.id < kept.over_before, false) as is_content_over
    from settled
    left join kept on kept.stream = settled.stream
  `.execute(trx)
  return rows
}

/** What a refusal that ended says of its recipient; see mail.suppress_after. */
export type RefusalFact = {
  readonly message_id: string
  readonly type: EventType
  /** Lower case. */
  readonly recipient: string
  readonly at: string
  readonly detail: Readonly<Record<string, unknown>>
}

/** Applies the rules of suppression to refusals whose events this transaction has written. */
export async function suppressRefused(trx: Transaction, facts: readonly RefusalFact[]): Promise<void> {
  await sql`/* dispatch.suppress_refused */
    select mail.suppress_after(${JSON.stringify(facts)}::json)
  `.execute(trx)
}
