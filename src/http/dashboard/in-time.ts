import { sql } from 'kysely'
import type { Database } from '../../db/pool.ts'
import { sqlState } from '../../db/sqlstate.ts'
import { inTransaction, type Transaction } from '../../db/transaction.ts'
import { ApiError } from '../../errors.ts'

/** A page that takes longer is asked for again and again, and costs the mail that flows meanwhile. */
const LONGEST_LOOK_MS = 5_000
const QUERY_CANCELED = '57014'

/** Reads for a page, each statement within a few seconds; otherwise whoever looks is told to look for less. */
export async function inTime<T>(db: Database, look: (trx: Transaction) => Promise<T>): Promise<T> {
  try {
    return await inTransaction(db, async (trx) => {
      await sql`select set_config('statement_timeout', ${String(LONGEST_LOOK_MS)}, true)`.execute(trx)
      return look(trx)
    })
  } catch (error) {
    if (sqlState(error) !== QUERY_CANCELED) throw error
    const words = 'There is too much to look through. Narrow the search, by time for example.'
    throw new ApiError('validation_error', words, { cause: error })
  }
}
