import { type Transaction as KyselyTransaction, sql } from 'kysely'
import type { Database } from './pool.ts'
import type { DB } from './types.ts'

export type Transaction = KyselyTransaction<DB>

export function inTransaction<T>(db: Database, work: (trx: Transaction) => Promise<T>): Promise<T> {
  return db.transaction().execute(work)
}

/** See `lastly`. */
export const LASTLY = '/* and commit */'

/**
 * Part of the text of a transaction's last statement, whose commit then goes with it: one round trip instead of two. What has
 * to keep the transaction from being committed must be an error of this very statement. (Where statements are not prepared, as
 * behind a pooler, it changes nothing.)
 */
export const lastly = sql.raw(LASTLY)
