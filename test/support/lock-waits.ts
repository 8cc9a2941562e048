import type { Client } from 'pg'

/** Of pg_locks: all test databases have their tables under the same numbers. */
export const OF_THIS_DATABASE = 'database = (select oid from pg_database where datname = current_database())'

/**
 * How many sessions of the client's database wait for a lock. Other test files have theirs on the same server; a
 * wait for a row names no database itself, but its session holds locks that do. Also tells inside a transaction,
 * where pg_stat_activity would stand still.
 */
export async function countLockWaits(client: Pick<Client, 'query'>): Promise<number> {
  const { rowCount } = await client.query(
    `select distinct pid from pg_locks where not granted and pid in (
       select pid from pg_locks join pg_database d on d.oid = database where d.datname = current_database()
     )`,
  )
  return rowCount ?? 0
}
