import { sql } from 'kysely'
import type { Database } from '../db/pool.ts'
import type { WebhookEvent } from '../webhook-events.ts'

export type StoredEndpoint = {
  readonly id: string
  readonly url: string
  readonly events: readonly string[] | null
  readonly status: 'enabled' | 'disabled'
  readonly description: string | null
  readonly created_at: Date
  readonly failures: number
  readonly failing_since: Date | null
  readonly last_failure: string | null
  readonly disabled_at: Date | null
  readonly disabled_reason: string | null
}

const endpoint = sql`
  id, url, events, status, description, created_at, failures, failing_since, last_failure, disabled_at, disabled_reason`

export type NewEndpoint = {
  readonly url: string
  readonly events: readonly WebhookEvent[] | null
  readonly description: string | null
}

export async function createEndpoint(
  db: Database,
  { url, events, description }: NewEndpoint,
): Promise<{ id: string; signing_secret: string } | undefined> {
  const { rows } = await sql<{ id: string; signing_secret: string }>`/* http.create_webhook */
    select id, signing_secret from mail.webhook_create(${url}, ${events}::text[], ${description})
  `.execute(db)
  return rows[0]
}

export async function findEndpoint(db: Database, id: string): Promise<StoredEndpoint | undefined> {
  const { rows } = await sql<StoredEndpoint>`/* http.find_webhook */
    select ${endpoint} from mail.webhook_endpoint where id = ${id}::uuid
  `.execute(db)
  return rows[0]
}

/** Ids are made in order of time: they are the cursor. */
export type Page = { readonly limit: number; readonly after: string | null; readonly before: string | null }

/** The latest made first, and one more than asked for when there is more. */
export async function listEndpoints(
  db: Database,
  { limit, after, before }: Page,
): Promise<readonly StoredEndpoint[]> {
  const { rows } = await sql<StoredEndpoint>`/* http.list_webhooks */
    select ${endpoint}
    from mail.webhook_endpoint
    where (${after}::uuid is null or id < ${after}::uuid) and (${before}::uuid is null or id > ${before}::uuid)
    order by ${before === null ? sql`id desc` : sql`id`}
    limit ${limit + 1}
  `.execute(db)
  return rows
}

export type EndpointChanges = {
  readonly url?: string | undefined
  readonly events?: readonly WebhookEvent[] | null | undefined
  readonly status?: 'enabled' | 'disabled' | undefined
  readonly description?: string | null | undefined
}

/** False when there is no such endpoint. */
export async function changeEndpoint(db: Database, id: string, changes: EndpointChanges): Promise<boolean> {
  const { url = null, events, status, description } = changes
  const { rows } = await sql`/* http.change_webhook */
    with changed as (
      update mail.webhook_endpoint
      set url = coalesce(${url}, url),
        events = case when ${events !== undefined} then ${events ?? null}::text[] else events end,
        description = case when ${description !== undefined} then ${description ?? null}::text else description end
      where id = ${id}::uuid
      returning id
    )
    select id from changed
  `.execute(db)
  if (rows.length === 0) return false
  if (status === 'enabled')
    await sql`/* http.enable_webhook */ select mail.webhook_enable(${id}::uuid)`.execute(db)
  if (status === 'disabled')
    await sql`/* http.disable_webhook */ select mail.webhook_disable(${id}::uuid)`.execute(db)
  return true
}

export async function removeEndpoint(db: Database, id: string): Promise<boolean> {
  const { rows } = await sql<{ removed: boolean }>`/* http.remove_webhook */
    select mail.webhook_remove(${id}::uuid) as removed
  `.execute(db)
  return rows[0]?.removed === true
}

/** The new secret; undefined when there is no such endpoint. */
export async function rotateSecret(db: Database, id: string): Promise<string | undefined> {
  const { rows } = await sql<{ secret: string | null }>`/* http.rotate_webhook */
    select mail.webhook_rotate(${id}::uuid) as secret
  `.execute(db)
  return rows[0]?.secret ?? undefined
}

/** Returns how many go again at once; throws what the function raises for an endpoint that is disabled or unknown. */
export async function replaySince(db: Database, id: string, since: Date): Promise<number> {
  const { rows } = await sql<{ replayed: string }>`/* http.replay_webhooks */
    select mail.webhook_replay(${id}::uuid, ${since}::timestamptz) as replayed
  `.execute(db)
  return Number(rows[0]?.replayed ?? 0)
}

export type StoredDelivery = {
  readonly id: string
  readonly type: string
  readonly state: 'pending' | 'attempting' | 'success' | 'failed'
  readonly created_at: Date
  readonly next_attempt_at: Date | null
}

/** Of one endpoint, the latest event first, and one more than asked for when there is more. */
export async function listDeliveries(
  db: Database,
  endpointId: string,
  { limit, after, before }: Page,
): Promise<readonly StoredDelivery[]> {
  const { rows } = await sql<StoredDelivery>`/* http.list_webhook_events */
    select id, type, state, created_at, next_attempt_at
    from mail.webhook_delivery
    where endpoint_id = ${endpointId}::uuid
      and (${after}::text is null or id < ${after}) and (${before}::text is null or id > ${before})
    order by ${before === null ? sql`id desc` : sql`id`}
    limit ${limit + 1}
  `.execute(db)
  return rows
}

export async function findDelivery(
  db: Database,
  endpointId: string,
  id: string,
): Promise<(StoredDelivery & { readonly payload: object }) | undefined> {
  const { rows } = await sql<StoredDelivery & { readonly payload: object }>`/* http.find_webhook_event */
    select id, type, state, created_at, next_attempt_at, payload
    from mail.webhook_delivery
    where id = ${id} and endpoint_id = ${endpointId}::uuid
  `.execute(db)
  return rows[0]
}

export async function replayDelivery(db: Database, id: string): Promise<void> {
  await sql`/* http.replay_webhook */ select mail.webhook_replay(${id}::text)`.execute(db)
}

export type StoredAttempt = {
  readonly number: number
  readonly at: Date
  readonly duration_ms: number
  readonly status: number | null
  readonly response: string | null
  readonly error: string | null
}

/** At most 20 are kept: the latest first. */
export async function listAttempts(db: Database, deliveryId: string): Promise<readonly StoredAttempt[]> {
  const { rows } = await sql<StoredAttempt>`/* http.list_webhook_attempts */
    select number, at, duration_ms, status, response, error
    from mail.webhook_attempt
    where delivery_id = ${deliveryId}
    order by number desc
  `.execute(db)
  return rows
}
