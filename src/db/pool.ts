import { Kysely, PostgresDialect } from 'kysely'
import { Client, Pool } from 'pg'
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

/** The statements that run for every batch; each is planned once a connection instead of every time. */
const HOT = /^\/\* (?:intake|processing|dispatch)\.|\bpgboss\./
/** Plans take memory in every connection: past so many different texts, the rest are planned each time. */
const MAX_PREPARED = 200
const preparedNames = new Map<string, string>()

function preparedNameOf(text: string): string | undefined {
  const known = preparedNames.get(text)
  if (known !== undefined || preparedNames.size >= MAX_PREPARED || !HOT.test(text)) return known
  const name = `sluice_${preparedNames.size}`
  preparedNames.set(text, name)
  return name
}

/** A client that names hot statements, which is how the driver prepares them. */
class PreparingClient extends Client {
  // biome-ignore lint/suspicious/noExplicitAny: the driver's own signature has a dozen overloads
  override query(...args: any[]): any {
    const [text, values] = args
    const name = typeof text === 'string' && Array.isArray(values) ? preparedNameOf(text) : undefined
    if (name !== undefined) args.splice(0, 2, { name, text, values })
    return super.query(...(args as Parameters<Client['query']>))
  }
}

/** Connections for everything but sessions that must be held (see session.ts). */
export function openPool(options: PoolOptions): { db: Database; pool: Pool; close: () => Promise<void> } {
  const pool = new Pool({
    Client: PreparingClient,
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
