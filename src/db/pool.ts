import { Kysely, PostgresDialect } from 'kysely'
import { Pool } from 'pg'
import type { Log } from '../log.ts'
import type { DB } from './types.ts'

export type Database = Kysely<DB>

export type PoolOptions = {
  readonly url: string
  readonly maxConnections: number
  /** Work as this role, with its rights and no more. Unset: as the user of the URL. */
  readonly role: string | undefined
  readonly log: Log
}

const CONNECT_TIMEOUT_MS = 3_000

/** Connections for everything but sessions that must be held (see session.ts). */
export function openPool(options: PoolOptions): { db: Database; pool: Pool; close: () => Promise<void> } {
  const pool = new Pool({
    connectionString: options.url,
    max: options.maxConnections,
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    keepAlive: true,
    application_name: 'sluice',
    ...(options.role === undefined ? {} : { options: `-c role=${options.role}` }),
  })
  // A connection that breaks is replaced by the pool, and a statement on it fails; but without a listener
  // its error event would end the process. The pool listens only while a connection is idle.
  const onLost = (error: Error) => options.log.debug({ error }, 'database connection lost')
  pool.on('error', onLost)
  pool.on('connect', (client) => client.on('error', onLost))
  const db = new Kysely<DB>({ dialect: new PostgresDialect({ pool }) })
  return { db, pool, close: () => db.destroy() }
}
