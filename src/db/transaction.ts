import type { Transaction as KyselyTransaction } from 'kysely'
import type { Database } from './pool.ts'
import type { DB } from './types.ts'

export type Transaction = KyselyTransaction<DB>

export function inTransaction<T>(db: Database, work: (trx: Transaction) => Promise<T>): Promise<T> {
  return db.transaction().execute(work)
}
