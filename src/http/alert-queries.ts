import { sql } from 'kysely'
import type { Database } from '../db/pool.ts'
import type { Transaction } from '../db/transaction.ts'
import { inTransaction } from '../db/transaction.ts'

export type AlertState = 'open' | 'resolved'
export type AlertPage = {
  readonly limit: number
  readonly after: string | null
  readonly before: string | null
  readonly state: AlertState | null
  readonly rule: string | null
}

const ALERT = sql`
  'alert' as object, id, rule, subject, severity, stream, provider, since, fired_at, last_seen_at, resolved_at, value,
  worst_value, threshold, what, command, page, acknowledged_at, acknowledged_by`

/** The latest first, and one more than asked for when there is more. Ids are made in order of time. */
export async function listAlerts(db: Database, page: AlertPage): Promise<{ id: string }[]> {
  const { limit, after, before, state, rule } = page
  const { rows } = await sql<{ id: string }>`/* http.list_alerts */
    select ${ALERT}
    from mail.alert
    where (${after}::uuid is null or id < ${after}::uuid) and (${before}::uuid is null or id > ${before}::uuid)
      and (${state}::text is null or (resolved_at is null) = (${state}::text = 'open'))
      and (${rule}::text is null or rule = ${rule}::text)
    order by ${before === null ? sql`id desc` : sql`id`}
    limit ${limit + 1}
  `.execute(db)
  return rows
}

export async function findAlert(db: Database | Transaction, id: string): Promise<object | undefined> {
  const { rows } = await sql<object>`/* http.find_alert */
    select ${ALERT} from mail.alert where id = ${id}::uuid
  `.execute(db)
  return rows[0]
}

/** As it is then; undefined when there is none. */
export async function acknowledgeAlert(db: Database, id: string, by: string): Promise<object | undefined> {
  return inTransaction(db, async (trx) => {
    await sql`/* http.acknowledge_alert */
      update mail.alert set acknowledged_at = clock_timestamp(), acknowledged_by = ${by}
      where id = ${id}::uuid and resolved_at is null and acknowledged_at is null
    `.execute(trx)
    return findAlert(trx, id)
  })
}

export type Silence = { readonly rule: string; readonly subject: string | null; readonly until: Date }

export async function silence(db: Database, { rule, subject, until }: Silence): Promise<string> {
  const { rows } = await sql<{ said: string }>`/* http.silence */
    select mail.silence(${rule}, ${subject}::text, ${until}::timestamptz) as said
  `.execute(db)
  return rows[0]?.said ?? ''
}

const RULE = sql`
  'alert_rule' as object, name, kind, threshold, clear_at, min_volume, for_s, clear_for_s, severity, stream, provider,
  urgent, enabled, repeat_s, description, command, page`

export async function listRules(db: Database): Promise<object[]> {
  const { rows } = await sql<object>`/* http.list_alert_rules */
    select ${RULE} from mail.alert_rule order by name
  `.execute(db)
  return rows
}

/** What is undefined stays as it is: JSON leaves it out. */
export type Changes = Readonly<Record<string, string | number | boolean | null | undefined>>

/** The columns that may be changed are those of the schema that checked the request. */
export async function changeRule(db: Database, name: string, changes: Changes): Promise<object | undefined> {
  const { rows } = await sql<object>`/* http.change_alert_rule */
    update mail.alert_rule
    set (threshold, clear_at, min_volume, for_s, clear_for_s, severity, stream, provider, urgent, enabled, repeat_s) = (
      select n.threshold, n.clear_at, n.min_volume, n.for_s, n.clear_for_s, n.severity, n.stream, n.provider, n.urgent,
        n.enabled, n.repeat_s
      from jsonb_populate_record(alert_rule, ${JSON.stringify(changes)}::jsonb) n
    )
    where name = ${name}
    returning ${RULE}
  `.execute(db)
  return rows[0]
}

/** Without its URL: that often is a secret, and so are name and password, which SQL may have put into it. */
const TARGET = sql`
  'alert_target' as object, t.id, t.name, t.kind, substring(t.url from '^https?://(?:[^/?#]*@)?([^/?#@]+)') as host, t.url_env, t.secret_env,
  t.address, t.sender, t.min_severity, t.enabled, t.created_at, latest.state as last_state, latest.last_error,
  latest.ended_at as last_told_at`
const TARGETS = sql`
  mail.alert_target t
  left join lateral (
    select d.state, d.last_error, d.ended_at
    from mail.alert_delivery d
    where d.target_id = t.id
    order by d.id desc
    limit 1
  ) latest on true`

export async function listTargets(db: Database): Promise<object[]> {
  const { rows } = await sql<object>`/* http.list_alert_targets */
    select ${TARGET} from ${TARGETS} order by t.name
  `.execute(db)
  return rows
}

export async function findTarget(db: Database, id: string): Promise<object | undefined> {
  const { rows } = await sql<object>`/* http.find_alert_target */
    select ${TARGET} from ${TARGETS} where t.id = ${id}::uuid
  `.execute(db)
  return rows[0]
}

/** Undefined when the name is taken. */
export async function createTarget(db: Database, row: Changes): Promise<string | undefined> {
  const { rows } = await sql<{ id: string }>`/* http.create_alert_target */
    insert into mail.alert_target (name, kind, url, url_env, secret_env, address, sender, min_severity, enabled)
    select
      n.name, n.kind, n.url, n.url_env, n.secret_env, n.address, n.sender, coalesce(n.min_severity, 'warning'),
      coalesce(n.enabled, true)
    from jsonb_populate_record(null::mail.alert_target, ${JSON.stringify(row)}::jsonb) n
    on conflict (name) do nothing
    returning id
  `.execute(db)
  return rows[0]?.id
}

/** False when there is no such target. */
export async function changeTarget(db: Database, id: string, changes: Changes): Promise<boolean> {
  const { rows } = await sql`/* http.change_alert_target */
    update mail.alert_target
    set (url, url_env, secret_env, address, sender, min_severity, enabled) = (
      select n.url, n.url_env, n.secret_env, n.address, n.sender, n.min_severity, n.enabled
      from jsonb_populate_record(alert_target, ${JSON.stringify(changes)}::jsonb) n
    )
    where id = ${id}::uuid
    returning id
  `.execute(db)
  return rows.length > 0
}

export async function removeTarget(db: Database, id: string): Promise<boolean> {
  const { rows } = await sql`/* http.remove_alert_target */
    delete from mail.alert_target where id = ${id}::uuid returning id
  `.execute(db)
  return rows.length > 0
}
