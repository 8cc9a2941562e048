import { sql } from 'kysely'
import type { Database } from '../db/pool.ts'
import type { Transaction } from '../db/transaction.ts'
import type { WebhookKind } from '../webhook-kinds.ts'
import type { Source } from './source.ts'

export async function findSource(db: Database, name: string): Promise<Source | undefined> {
  const { rows } = await sql<Source>`/* feedback.source */
    select
      name, kind, secrets_env as "secretsEnv",
      case kind when 'ses' then array(select jsonb_array_elements_text(options -> 'topic_arns')) else '{}' end as "topicArns"
    from mail.webhook_source
    where name = ${name}
  `.execute(db)
  return rows[0]
}

export type StoredDelivery = {
  readonly endpoint: string
  readonly kind: WebhookKind
  readonly eventKey: string
  readonly body: Buffer
}

/** Returns the ids of those that were not stored before. */
export async function storeDeliveries(
  trx: Transaction,
  deliveries: readonly StoredDelivery[],
): Promise<string[]> {
  const { rows } = await sql<{ id: string }>`/* feedback.store */
    insert into mail.feedback (endpoint, kind, event_key, body)
    select endpoint, kind, event_key, body
    from unnest(
      ${deliveries.map((each) => each.endpoint)}::text[], ${deliveries.map((each) => each.kind)}::text[],
      ${deliveries.map((each) => each.eventKey)}::text[], ${deliveries.map((each) => each.body)}::bytea[]
    ) as delivery (endpoint, kind, event_key, body)
    -- In one order in every process: two that store the same repeats must not wait for each other.
    order by endpoint, event_key
    on conflict (endpoint, event_key) do nothing
    returning id
  `.execute(trx)
  return rows.map((row) => row.id)
}

export type RefusalCount = { readonly endpoint: string; readonly reason: string; readonly refused: number }

export async function addRefusals(db: Database, counts: readonly RefusalCount[]): Promise<void> {
  await sql`/* feedback.refusals */
    insert into mail.webhook_refusal as r (endpoint, reason, refused)
    select endpoint, reason, refused
    from json_to_recordset(${JSON.stringify(counts)}::json) as count (endpoint text, reason text, refused bigint)
    -- A source may be gone since.
    where exists (select from mail.webhook_source s where s.name = endpoint)
    order by endpoint, reason
    on conflict (endpoint, reason) do update
    set refused = r.refused + excluded.refused, last_at = clock_timestamp()
  `.execute(db)
}

export type WaitingFeedback = {
  readonly id: string
  readonly endpoint: string
  readonly kind: string
  readonly event_key: string
  readonly received_at: Date
  /** Empty when the source names none, or is gone. */
  readonly provider: string
  readonly requires_bounce_address: boolean
  readonly body: Buffer
}

/** The oldest of these that still wait, up to so many bytes of bodies and at least one; and the ids of the others. */
export async function loadWaiting(
  trx: Transaction,
  ids: readonly string[],
  maxBytes: number,
): Promise<{ readonly rows: readonly WaitingFeedback[]; readonly left: readonly string[] }> {
  const { rows } = await sql<WaitingFeedback & { is_left: boolean }>`/* feedback.load */
    select
      f.id, f.endpoint, f.kind, f.event_key, f.received_at, coalesce(s.provider, '') as provider,
      coalesce(s.options -> 'requires_bounce_address' = 'true', false) as requires_bounce_address,
      case when not f.is_left then f.body end as body, f.is_left
    from (
      select *, sum(octet_length(body)) over (order by id) - octet_length(body) >= ${maxBytes} as is_left
      from mail.feedback
      where id = any (${ids}::bigint[]) and state = 'waiting'
    ) f
    left join mail.webhook_source s on s.name = f.endpoint
    order by f.id
  `.execute(trx)
  return {
    rows: rows.filter((row) => !row.is_left),
    left: rows.filter((row) => row.is_left).map((row) => row.id),
  }
}

export type SettledFeedback = {
  readonly id: string
  readonly state: 'applied' | 'parked'
  readonly reason: string | null
  /** It speaks of sensitive mail, and may quote it: of what was applied the body is not kept. */
  readonly isQuoting: boolean
}

export async function settleFeedback(trx: Transaction, settled: readonly SettledFeedback[]): Promise<void> {
  await sql`/* feedback.settle */
    update mail.feedback f
    set state = s.state, reason = s.reason, applied_at = case s.state when 'applied' then clock_timestamp() end,
      body = case when s.state = 'applied' and s."isQuoting" then '' else f.body end
    from json_to_recordset(${JSON.stringify(settled)}::json) as s (id bigint, state text, reason text, "isQuoting" boolean)
    where f.id = s.id
  `.execute(trx)
}
