import { sql } from 'kysely'
import type { Database } from '../db/pool.ts'

export type AlertChange = {
  readonly event: 'fired' | 'resolved'
  readonly id: string
  readonly rule: string
  /** Empty when there is only one. */
  readonly subject: string
  readonly severity: 'warning' | 'critical'
  readonly value: number
  readonly threshold: number
  readonly what: string
}

/** Measures every rule, and returns what fired and what was resolved; nothing while another process is at it. */
export async function evaluateAlerts(db: Database): Promise<AlertChange[]> {
  const { rows } = await sql<AlertChange>`/* upkeep.evaluate_alerts */
    select event, id, rule, subject, severity, value, threshold, what from mail.evaluate_alerts()
  `.execute(db)
  return rows
}
