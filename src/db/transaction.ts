import { type Transaction as KyselyTransaction, sql } from 'kysely'
import type { Database } from './pool.ts'
import type { DB } from './types.ts'

export type Transaction = KyselyTransaction<DB>

export function inTransaction<T>(db: Database, work: (trx: Transaction) => Promise<T>): Promise<T> {
  return db.transaction().execute(work)
}

/**
 * A transaction whose commit does not wait for the disk. Only for what a crash of Postgres may undo
 * without harm: a claim that is simply made again.
 */
export function inRelaxedTransaction<T>(db: Database, work: (trx: Transaction) => Promise<T>): Promise<T> {
  return db.transaction().execute(async (trx) => {
    await sql`set local synchronous_commit = off`.execute(trx)
    return work(trx)
  })
}
