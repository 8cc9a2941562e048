import { sql } from 'kysely'
import type { Database } from '../db/pool.ts'

export type Erased = {
  /** A table, or part of one. */
  readonly what: string
  readonly rows: number
  /** Was in use, and is there still. */
  readonly is_left: boolean
}

/** Removes all mail to this address, in lower case, and all that names it. */
export async function erase(db: Database, address: string): Promise<Erased[]> {
  const { rows } = await sql<Erased>`/* erasures.erase */
    select what, rows::integer as rows, is_left from mail.erase(${address})
  `.execute(db)
  return rows
}
