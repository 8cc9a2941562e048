import { sql } from 'kysely'
import type { Database } from './db/pool.ts'
import type { Transaction } from './db/transaction.ts'

/** Which of these addresses get no mail in this stream now. Addresses are lower case. */
export async function findSuppressed(
  db: Database | Transaction,
  stream: string,
  addresses: readonly string[],
): Promise<Set<string>> {
  const { rows } = await sql<{ address: string }>`/* suppression.find */
    select address from mail.suppressed_among(${addresses}::text[], ${stream}::text) as address
  `.execute(db)
  return new Set(rows.map((row) => row.address))
}
