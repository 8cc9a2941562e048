import { sql } from 'kysely'
import type { Database } from '../db/pool.ts'
import type { Transaction } from '../db/transaction.ts'
import type { Address } from '../message/message.ts'

export type Endpoint = {
  readonly id: string
  /** Null: all. */
  readonly events: readonly string[] | null
  readonly status: 'enabled' | 'disabled'
  readonly skipped_from: string | null
  readonly backfill_from: string | null
  readonly backfill_since: Date | null
}

/** How far webhooks have come; undefined while another process is at it. */
export async function takeCursor(trx: Transaction): Promise<string | undefined> {
  const { rows } = await sql<{ cursor: string }>`/* webhooks.take_cursor */
    select cursor from mail.consumer where name = 'webhooks' for update skip locked
  `.execute(trx)
  return rows[0]?.cursor
}

/** Moves the cursor and tells who listens: at most once a round, since NOTIFY serialises commits. */
export async function moveCursor(trx: Transaction, cursor: string): Promise<void> {
  await sql`/* webhooks.move_cursor */
    with moved as (
      update mail.consumer set cursor = ${cursor}, moved_at = clock_timestamp() where name = 'webhooks'
    )
    select pg_notify('sluice_events', ${cursor}::text)
  `.execute(trx)
}

export async function listEndpoints(db: Database | Transaction): Promise<Endpoint[]> {
  const { rows } = await sql<Endpoint>`/* webhooks.endpoints */
    select id, events, status, skipped_from, backfill_from, backfill_since from mail.webhook_endpoint
  `.execute(db)
  return rows
}

/** One event as it happened, with what a webhook says of its message. */
export type FeedEvent = {
  readonly cursor: string
  readonly event_id: string
  readonly message_id: string
  readonly at: Date
  readonly type: string
  readonly recipient: string | null
  readonly detail: Readonly<Record<string, unknown>> | null
  readonly accepted_at: Date | null
  readonly stream: string | null
  readonly from: Address | null
  /** The template's, when the message names none. */
  readonly sender: Address | null
  readonly to: readonly Address[] | null
  readonly subject: string | null
  readonly tags: readonly { readonly name: string; readonly value: string }[] | null
  readonly metadata: Readonly<Record<string, string>> | null
  /** Of a dead letter. */
  readonly reason: string | null
}

export type FeedPage = {
  /** Of these types, in the order of the feed. */
  readonly events: readonly FeedEvent[]
  /** Of all types. */
  readonly seen: number
  /** After all that was seen; undefined when there was nothing. */
  readonly cursor: string | undefined
}

/** The next events of the feed; those of other types are passed over. */
export async function readFeed(
  trx: Transaction,
  after: string,
  types: readonly string[],
  most: number,
): Promise<FeedPage> {
  if (types.length === 0) return passFeed(trx, after)
  const { rows } = await sql<FeedEvent & { seen: string; is_wanted: boolean }>`/* webhooks.read_feed */
    with happened as materialized (
      select e.*, row_number() over () as nth, count(*) over () as seen, e.type = any (${types}::text[]) as is_wanted
      from mail.read_events(${after}, ${most}::integer) e
    )
    select
      h.cursor, split_part(h.cursor, ':', 2) as event_id, h.message_id, h.at, h.type, h.recipient, h.detail,
      h.seen, h.is_wanted, m.accepted_at, m.stream, c."from", c."to", coalesce(c.subject, p.subject) as subject,
      c.tags, c.metadata, p.sender, d.reason
    from happened h
    -- Laterals with a limit: each event finds its message by the key, whatever the planner knows of the tables.
    left join lateral (
      select m.accepted_at, m.stream from mail.message m where m.id = h.message_id and h.is_wanted limit 1
    ) m on true
    left join lateral (
      select t.*
      from (
        select c.message
        from mail.message_content c
        where c.id = h.message_id and h.is_wanted
          -- What the intake refused is kept as it was given, and may hold text that cannot be read.
          and h.detail ->> 'stage' is distinct from 'intake'
        limit 1
      ) c
      cross join lateral json_to_record(c.message)
        as t ("from" json, "to" json, subject text, tags json, metadata json)
    ) c on true
    left join lateral (
      select p.subject, p.sender from mail.message_prepared p where p.id = h.message_id and h.is_wanted limit 1
    ) p on true
    left join lateral (
      select d.reason from mail.dead_letter d where d.message_id = h.message_id and h.type = 'dead' limit 1
    ) d on true
    where h.is_wanted or h.nth = h.seen
    order by h.nth
  `.execute(trx)
  const last = rows.at(-1)
  return {
    events: rows.filter((row) => row.is_wanted),
    seen: Number(last?.seen ?? 0),
    cursor: last?.cursor,
  }
}

/** All events there are, when nobody wants any of them. */
async function passFeed(trx: Transaction, after: string): Promise<FeedPage> {
  const { rows } = await sql<{ cursor: string }>`/* webhooks.pass_feed */
    select mail.latest_event() as cursor where exists (select from mail.read_events(${after}, 1))
  `.execute(trx)
  return { events: [], seen: 0, cursor: rows[0]?.cursor }
}

export type NewEvent = {
  readonly event_id: string
  readonly message_id: string
  readonly type: string
  readonly payload: object
}
export type NewDelivery = { readonly id: string; readonly endpoint_id: string; readonly event_id: string }

/** Stores what is to be told to whom; returns what was not there before. */
export async function storeDeliveries(
  trx: Transaction,
  events: readonly NewEvent[],
  deliveries: readonly NewDelivery[],
): Promise<{ id: string; endpoint_id: string }[]> {
  const { rows } = await sql<{ id: string; endpoint_id: string }>`/* webhooks.store_deliveries */
    insert into mail.webhook_delivery (id, endpoint_id, message_id, event_id, type, payload)
    select d.id, d.endpoint_id, e.message_id, e.event_id, e.type, e.payload
    from json_to_recordset(${JSON.stringify(events)}::json)
      as e (event_id bigint, message_id uuid, type text, payload json)
    join json_to_recordset(${JSON.stringify(deliveries)}::json)
      as d (id text, endpoint_id uuid, event_id bigint) using (event_id)
    on conflict (id) do nothing
    returning id, endpoint_id
  `.execute(trx)
  return rows
}

/** From here on these endpoints, which are disabled, miss something; what they missed before stays noted. */
export async function noteSkipped(
  trx: Transaction,
  endpoints: readonly string[],
  cursor: string,
): Promise<void> {
  await sql`/* webhooks.note_skipped */
    update mail.webhook_endpoint set skipped_from = ${cursor}
    where id = any (${endpoints}::uuid[]) and skipped_from is null
  `.execute(trx)
}

/** Where making up for what an endpoint missed has come to; null: nothing is missing any more. */
export async function moveBackfill(trx: Transaction, endpoint: string, cursor: string | null): Promise<void> {
  await sql`/* webhooks.move_backfill */
    update mail.webhook_endpoint
    set backfill_from = ${cursor}::text,
      skipped_from = case when ${cursor}::text is null and status = 'enabled' then null else skipped_from end
    where id = ${endpoint}::uuid
  `.execute(trx)
}
