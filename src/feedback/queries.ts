import { sql } from 'kysely'
import type { Transaction } from '../db/transaction.ts'
import type { Unsubscription } from '../unsubscribe-links.ts'
import type { FeedbackEvent } from './event.ts'
import type { Unmatched } from './matching.ts'
import { clean, type StorableEvent, storable, storableDetail } from './storable.ts'

export type WantedReference = { readonly provider: string; readonly id: string }
/** As it was wanted, and the message it means. */
export type Reference = WantedReference & { readonly message_id: string }

/** Our messages by the ids that providers gave them; an event that names no provider may mean any. */
export async function findReferences(
  trx: Transaction,
  wanted: readonly WantedReference[],
): Promise<Reference[]> {
  if (wanted.length === 0) return []
  const { rows } = await sql<Reference>`/* feedback.find_references */
    select distinct wanted.provider, wanted.id, r.message_id
    from json_to_recordset(${JSON.stringify(wanted)}::json) as wanted (provider text, id text)
    join mail.provider_ref r
      on r.provider_message_id = wanted.id and (r.provider = wanted.provider or wanted.provider = '')
    where r.provider_message_id = any (${wanted.map(({ id }) => id)}::text[])
    order by r.message_id
  `.execute(trx)
  return rows
}

/** Locks those of the messages that a provider has, waiting for each in the order of ids. */
export async function lockSettled(
  trx: Transaction,
  ids: readonly string[],
): Promise<{ id: string; is_sensitive: boolean }[]> {
  if (ids.length === 0) return []
  const { rows } = await sql<{ id: string; is_sensitive: boolean }>`/* feedback.lock_settled */
    select id, is_sensitive
    from mail.message
    where id = any (${ids}::uuid[]) and status in ('sent', 'delivered', 'bounced', 'complained', 'unknown')
    order by id
    for no key update
  `.execute(trx)
  return rows
}

/**
 * Those of the messages that exist. Ready, and locked: where it ended, or where the attempt that the event speaks of
 * is one whose outcome was in doubt. Not ready: before and during a send, and while some recipients are still to
 * be tried; whoever is at work there writes its status first.
 */
export async function lockOthers(
  trx: Transaction,
  ids: readonly string[],
): Promise<{ id: string; is_sensitive: boolean; is_ready: boolean }[]> {
  if (ids.length === 0) return []
  const { rows } = await sql<{
    id: string
    is_sensitive: boolean
    is_ready: boolean
  }>`/* feedback.lock_others */
    with letter as materialized (
      -- Before the message, as whoever retries or discards a dead letter does.
      select message_id
      from mail.dead_letter
      where message_id = any (${ids}::uuid[])
      order by message_id
      for update skip locked
    ), free as materialized (
      select
        id,
        (
          status in ('dead', 'suppressed', 'canceled')
          -- What the intake refused was never sent, and its content is as it was given: nobody could read it.
          and not exists (
            select from mail.event e
            where e.message_id = message.id and e.type = 'dead' and e.detail ->> 'stage' = 'intake'
          )
        )
          or (status in ('queued', 'deferred') and attempts > 0 and not is_partly_settled) as is_ready
      from mail.message
      where id = any (${ids}::uuid[]) and status in ('queued', 'deferred', 'dead', 'suppressed', 'canceled')
        and (
          status <> 'dead' or id in (select message_id from letter)
          or not exists (select from mail.dead_letter d where d.message_id = message.id)
        )
      order by id
      for no key update skip locked
    )
    select m.id, m.is_sensitive, coalesce(free.is_ready, false) as is_ready
    from mail.message m
    left join free on free.id = m.id
    where m.id = any (${ids}::uuid[])
  `.execute(trx)
  return rows
}

export type ToldEvent = StorableEvent & { readonly message_id: string }

/** An event that was new, with the recipient it is about. */
export type FreshEvent = {
  readonly message_id: string
  readonly type: FeedbackEvent['type']
  readonly at: string
  readonly recipient: string | null
  readonly detail: Readonly<Record<string, unknown>>
  /** The message was addressed to this recipient. */
  readonly is_recipient: boolean
}

/**
 * Writes the events that are new, and what all events of their messages together make of each status; returns the
 * new ones. The messages must be locked: what another batch wrote before is then seen here.
 *
 * A message is as its worst recipient, or delivered once everybody it was sent to has it. An open, a click or an
 * unsubscribe proves a delivery; any event at all proves that the provider took the message, which settles one
 * whose outcome was in doubt, and spares it the next attempt.
 */
export async function applyEvents(trx: Transaction, told: readonly ToldEvent[]): Promise<FreshEvent[]> {
  const { rows } = await sql<FreshEvent>`/* feedback.apply */
    with told as materialized (
      select *
      from json_to_recordset(${JSON.stringify(told)}::json)
        as told (message_id uuid, key text, type text, at text, recipient text, detail json)
    ), outcome (type, rank) as (
      values
        ('deferred', 0), ('delivered', 1), ('opened', 1), ('clicked', 1), ('unsubscribed', 1),
        ('rejected', 2), ('bounced', 2), ('complained', 3),
        -- Nothing more is to come for these.
        ('recipient_refused', -1), ('suppressed', -1)
    ), fresh as (
      insert into mail.feedback_seen (message_id, key)
      select distinct message_id, key from told
      on conflict do nothing
      returning message_id, key
    ), stood as materialized (
      select
        m.id, m.status, m.is_sensitive,
        m.status = 'unknown'
          or (m.status in ('queued', 'deferred', 'dead') and m.attempts > 0 and not m.is_partly_settled) as is_in_doubt,
        mail.recipients_of(c.message) as everybody
      from (select distinct message_id from fresh) f
      -- Laterals with a limit: each message is found by its key, whatever the planner knows of the tables. (Said for a
      -- whole list of ids once more, each of these look-ups would go through that list: thousands times thousands.)
      cross join lateral (select * from mail.message m where m.id = f.message_id limit 1) m
      left join lateral (select c.message from mail.message_content c where c.id = f.message_id limit 1) c on true
    ), news as materialized (
      select distinct on (told.message_id, told.key)
        told.message_id, told.type, told.at,
        -- What others say of sensitive mail may quote it, and a link that was clicked may be its secret.
        case when stood.is_sensitive then mail.without_words(told.detail) else told.detail end as detail,
        -- Who it was is clear without being said when there is only one.
        coalesce(told.recipient, case cardinality(stood.everybody) when 1 then stood.everybody[1] end) as recipient
      from told
      join fresh using (message_id, key)
      join stood on stood.id = told.message_id
      order by told.message_id, told.key, told.type, told.at
    ), recorded as (
      insert into mail.event (message_id, at, type, recipient, detail)
      select message_id, at::timestamptz, type, recipient, detail from news
    ), known as (
      select message_id, type, recipient from news
      union all
      select stood.id, e.type, lower(e.recipient)
      from stood
      cross join lateral (
        select e.type, e.recipient from mail.event e where e.message_id = stood.id offset 0
      ) e
    ), standing as (
      select
        stood.id,
        stood.is_in_doubt,
        case
          when max(rank) = 3 then 'complained'
          when max(rank) = 2 then 'bounced'
          when max(rank) = 1 and (
            cardinality(stood.everybody) <= 1
            or bool_or(rank = 1 and known.recipient is null)
            or stood.everybody <@ array_agg(known.recipient) filter (where rank <> 0 and known.recipient is not null)
          ) then 'delivered'
          else 'sent'
        end as status
      from stood
      join known on known.message_id = stood.id
      join outcome using (type)
      group by stood.id, stood.is_in_doubt, stood.everybody
    ), settled as (
      update mail.message m
      set status = standing.status,
        -- The moment the provider took it is not known any better.
        sent_at = coalesce(m.sent_at, m.claimed_at, m.accepted_at),
        next_attempt_at = null,
        last_error = case when not standing.is_in_doubt then m.last_error end
      from standing
      where m.id = standing.id
        and (
          standing.is_in_doubt
          or array_position(array['sent', 'delivered', 'bounced', 'complained'], standing.status)
            > array_position(array['sent', 'delivered', 'bounced', 'complained'], m.status)
        )
      returning m.id, m.provider, standing.is_in_doubt
    ), proven as (
      insert into mail.event (message_id, type, detail)
      select id, 'sent', json_build_object('by', 'feedback', 'provider', provider) from settled where is_in_doubt
    ), not_dead as (
      delete from mail.dead_letter d using settled where d.message_id = settled.id and settled.is_in_doubt
    )
    select
      news.message_id, news.type, news.at, news.recipient, news.detail,
      coalesce(news.recipient = any (stood.everybody), false) as is_recipient
    from news
    join stood on stood.id = news.message_id
  `.execute(trx)
  return rows
}

/** Applies the rules of suppression to events that were written before in this transaction. */
export async function suppressAfter(trx: Transaction, facts: readonly FreshEvent[]): Promise<void> {
  await sql`/* feedback.suppress_after */
    select mail.suppress_after(${JSON.stringify(facts)}::json)
  `.execute(trx)
}

const FIRST_TRY = '1 second'

/** Keeps events for later; one that waits already is left as it is. */
export async function keepUnmatched(trx: Transaction, unmatched: readonly Unmatched[]): Promise<void> {
  if (unmatched.length === 0) return
  const now = Date.now()
  const rows = unmatched.map(({ event, messageId }) => ({
    provider: clean(event.provider),
    message_id: messageId,
    key: storable(event, now).key,
    event: keptForm(event, now),
  }))
  await sql`/* feedback.keep_unmatched */
    insert into mail.feedback_unmatched (provider, key, event, message_id, next_try_at)
    select distinct on (provider, key) provider, key, event, message_id, clock_timestamp() + ${FIRST_TRY}::interval
    from json_to_recordset(${JSON.stringify(rows)}::json) as row (provider text, key text, event json, message_id uuid)
    order by provider, key
    on conflict do nothing
  `.execute(trx)
}

/** The event as it can be read again: storable, and as a FeedbackEvent all the same. */
function keptForm(event: FeedbackEvent, now: number) {
  const { at, recipient, key } = storable(event, now)
  const kept = { ...event, key, at, recipient: recipient ?? undefined, detail: storableDetail(event.detail) }
  return JSON.parse(JSON.stringify(kept, (_key, value) => (typeof value === 'string' ? clean(value) : value)))
}

export type WaitingRow = {
  readonly id: string
  readonly tries: number
  readonly event: Omit<FeedbackEvent, 'at'> & { readonly at: string }
}

/** Events whose next try is due; those that another worker tries now are left to it. */
export async function takeWaiting(trx: Transaction, limit: number): Promise<WaitingRow[]> {
  const { rows } = await sql<WaitingRow>`/* feedback.take_waiting */
    select id, tries, event
    from mail.feedback_unmatched
    where next_try_at <= clock_timestamp()
    order by next_try_at
    limit ${limit}
    for update skip locked
  `.execute(trx)
  return rows
}

export type Postponed = {
  readonly id: string
  readonly message_id: string | null
  /** Null: given up. */
  readonly delay_ms: number | null
}

/** Ends a round of tries: what was applied leaves, the rest waits longer or is given up. */
export async function finishWaiting(
  trx: Transaction,
  applied: readonly string[],
  postponed: readonly Postponed[],
): Promise<void> {
  await sql`/* feedback.finish_waiting */
    with applied as (
      delete from mail.feedback_unmatched where id = any (${applied}::bigint[])
    )
    update mail.feedback_unmatched u
    set tries = u.tries + 1,
      message_id = row.message_id,
      next_try_at = clock_timestamp() + row.delay_ms * interval '1 millisecond'
    from json_to_recordset(${JSON.stringify(postponed)}::json) as row (id bigint, message_id uuid, delay_ms bigint)
    where u.id = row.id
  `.execute(trx)
}

/** Puts an address on the list of a stream, unless it is there with as much reason. */
export async function suppressUnsubscribed(
  trx: Transaction,
  { messageId, stream, address }: Unsubscription,
  at: Date,
): Promise<void> {
  await sql`/* feedback.unsubscribe */
    select mail.store_suppressions(json_build_array(json_build_object(
      'address', ${address}::text, 'scope', ${stream}::text, 'origin', 'unsubscribe', 'reason', 'unsubscribed',
      'source', 'feedback',
      'evidence', mail.suppression_evidence('unsubscribe', ${at.toISOString()}, ${messageId}::uuid, '{}')
    )))
  `.execute(trx)
}
