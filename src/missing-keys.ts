import { sql } from 'kysely'
import type { Database } from './db/pool.ts'
import type { Log } from './log.ts'
import type { Sealer } from './sealer.ts'

/** Says at start which keys waiting mail needs and this process lacks: each of those messages would be a dead letter. */
export async function warnOfMissingKeys(db: Database, sealer: Sealer, log: Log): Promise<void> {
  const { rows } = await sql<{ key_id: string; messages: string }>`/* encryption.missing_keys */
    select key_id, messages from mail.encryption_key_use
  `.execute(db)
  for (const { key_id: key, messages } of rows) {
    if (sealer.has(key)) continue
    log.warn(
      { key, messages: Number(messages) },
      'SLUICE_ENCRYPTION_KEYS lacks a key that stored mail needs; that mail cannot be sent',
    )
  }
}
