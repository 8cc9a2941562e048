import { sql } from 'kysely'
import type { Transaction } from './db/transaction.ts'

/**
 * Removes the content of those of these messages that are settled and whose stream keeps it no longer (at once with
 * `content_days = 0`); the others are left alone. For the transaction that settles them.
 */
export async function removeContent(trx: Transaction, ids: readonly string[]): Promise<void> {
  await sql`/* message_content.remove */
    select mail.remove_content(${ids}::uuid[])
  `.execute(trx)
}
