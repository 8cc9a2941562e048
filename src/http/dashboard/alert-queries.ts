import { sql } from 'kysely'
import type { Database } from '../../db/pool.ts'

export type OpenAlert = {
  readonly id: string
  readonly severity: 'warning' | 'critical'
  readonly rule: string
  readonly subject: string
  readonly since: Date
  /** One sentence, which may quote what a provider or an app said. */
  readonly what: string
  /** For psql. */
  readonly command: string
  readonly page: string
  readonly acknowledged_at: Date | null
  readonly acknowledged_by: string | null
  readonly silenced_until: Date | null
  /** Which targets have heard of it; null without any. */
  readonly told: string | null
}

export async function readOpenAlerts(db: Database, limit: number): Promise<OpenAlert[]> {
  const { rows } = await sql<OpenAlert>`/* dashboard.open_alerts */
    select * from mail.alerts_now limit ${limit}
  `.execute(db)
  return rows
}

export type PastAlert = {
  readonly id: string
  readonly severity: 'warning' | 'critical'
  readonly rule: string
  readonly what: string
  readonly since: Date
  readonly resolved_at: Date
}

/** The latest that fired first, from before that one on. */
export async function readPastAlerts(
  db: Database,
  before: string | undefined,
  limit: number,
): Promise<PastAlert[]> {
  const { rows } = await sql<PastAlert>`/* dashboard.past_alerts */
    select id, severity, rule, what, since, resolved_at
    from mail.alert
    where resolved_at is not null and (${before ?? null}::uuid is null or id < ${before ?? null}::uuid)
    order by id desc
    limit ${limit}
  `.execute(db)
  return rows
}

export async function countTargets(db: Database): Promise<number> {
  const { rows } = await sql<{ count: number }>`/* dashboard.alert_targets */
    select count(*)::integer as count from mail.alert_target where enabled
  `.execute(db)
  return rows[0]?.count ?? 0
}

/** Whichever keeps this alert quiet: one about its subject, or about all of its rule. False when there is none any more. */
export async function endSilence(db: Database, rule: string, subject: string): Promise<boolean> {
  const { rows } = await sql<{ done: boolean }>`/* dashboard.unsilence */
    select bool_or(mail.unsilence(${rule}, s)) as done from unnest(array[${subject}, null]::text[]) s
  `.execute(db)
  return rows[0]?.done === true
}
