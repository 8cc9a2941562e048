import { sql } from 'kysely'
import type { Database } from './db/pool.ts'

/** What mail about alerts comes in as: processing sends it by a provider that is not in trouble itself. */
export const ALERT_STREAM = 'alerts'
export const ALERT_SOURCE = 'sluice alerts'

/** The provider for mail about alerts; undefined when each of the route is in trouble. */
export async function providerForAlerts(db: Database): Promise<string | undefined> {
  const { rows } = await sql<{ provider: string | null }>`/* alerts.provider */
    select mail.provider_for_alerts() as provider
  `.execute(db)
  return rows[0]?.provider ?? undefined
}
