import { Kysely, PostgresDialect } from 'kysely'
import { type ClientBase, Pool, type PoolConfig } from 'pg'
import type { Log } from '../log.ts'
import { ConnectionError } from './connection-error.ts'
import { connectionSettings, pooledSettings } from './connection-settings.ts'
import { PoolClient, type PoolClientOptions } from './pool-client.ts'
import { refuseUnsound } from './pooler.ts'
import { type NoteFault, watchServerTrouble } from './server-trouble.ts'
import { watchSilence } from './silence.ts'
import type { DB } from './types.ts'

export type Database = Kysely<DB>

export type PoolOptions = {
  readonly url: string
  readonly maxConnections: number
  /** Work as this role, with its rights and no more. Unset: as the user of the URL. */
  readonly role: string | undefined
  /** The URL is that of a pooler in transaction mode, and `role` has no effect. */
  readonly isPooled?: boolean
  readonly log: Log
  /** After so long without an answer the connection is given up. Unset: 30 s. */
  readonly queryTimeoutMs?: number
  /** After so long the server is asked whether there will be an answer (silence.ts). Unset: 3 s. */
  readonly doubtMs?: number
}

const CONNECT_TIMEOUT_MS = 3_000
/** Our longest statement takes a second or two: past this it waits for a lock, and holds others itself. */
export const STATEMENT_TIMEOUT_MS = 25_000
/** No transaction of ours waits between two statements; one that does belongs to a process that hangs, or is not heard. */
export const IDLE_IN_TRANSACTION_MS = 10_000
/** The pool closes what was idle for ten seconds: a server process that waits longer has lost its client. */
const IDLE_SESSION_MS = 60_000

/**
 * A pool whose failures to give a connection are told from every other error by their class. When one of its connections
 * turns out to be silent, those that were not heard since are given up as well: what silenced one has silenced the others.
 */
class ReportingPool extends Pool {
  #silentAt = Number.NEGATIVE_INFINITY
  readonly #onFault: NoteFault

  constructor(options: PoolConfig & PoolClientOptions & { onFault: NoteFault }) {
    const onSilence = () => {
      this.#silentAt = performance.now()
      void this.#dropSilent()
    }
    super({ ...options, onSilence, Client: PoolClient } as PoolConfig)
    this.#onFault = options.onFault
  }

  // biome-ignore lint/suspicious/noExplicitAny: both of the driver's overloads
  override connect(callback?: (...args: any[]) => void): any {
    const lent = this.#lend()
    if (callback === undefined) return lent
    lent.then(
      (client) => callback(undefined, client, client.release),
      (error: unknown) => callback(error, undefined, () => undefined),
    )
  }

  async #lend(): Promise<Lent> {
    for (;;) {
      const client = (await super.connect().catch((error: unknown) => {
        this.#onFault(error)
        throw new ConnectionError(error)
      })) as Lent
      if (!this.#drops(client)) return client
    }
  }

  /** Those at rest, too: a goodbye would not arrive, and the other end would keep them. */
  async #dropSilent(): Promise<void> {
    const atRest = Array.from({ length: this.idleCount }, () => super.connect() as Promise<Lent>)
    for (const lent of await Promise.allSettled(atRest)) {
      if (lent.status === 'fulfilled' && !this.#drops(lent.value)) lent.value.release()
    }
  }

  #drops(client: Lent): boolean {
    if (client.heardAt > this.#silentAt) return false
    client.release(true)
    client.connection.stream.destroy()
    return true
  }
}

type Lent = PoolClient & { release(isBroken?: boolean | Error): void }

/**
 * Connections for everything but sessions that must be held (see session.ts). Acquiring one, or losing it
 * under a statement of `db`, fails with a ConnectionError.
 */
export function openPool(options: PoolOptions): { db: Database; pool: Pool; close: () => Promise<void> } {
  const pool = new ReportingPool({
    ...(options.isPooled ? pooledOptions(options) : directOptions(options)),
    max: options.maxConnections,
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    onFault: watchServerTrouble(options.log),
    application_name: 'sluice',
  })
  // A connection that breaks is replaced by the pool, and a statement on it fails; but without a listener
  // its error event would end the process. The pool listens only while a connection is idle.
  const onLost = (error: Error) => options.log.debug({ error }, 'database connection lost')
  pool.on('error', onLost)
  pool.on('connect', (client) => client.on('error', onLost))
  const db = new Kysely<DB>({ dialect: new PostgresDialect({ pool }) })
  return { db, pool, close: () => db.destroy() }
}

function directOptions({ url, role, log, queryTimeoutMs, doubtMs }: PoolOptions) {
  return {
    ...connectionSettings(url, role, { idle_session_timeout: IDLE_SESSION_MS }),
    statement_timeout: STATEMENT_TIMEOUT_MS,
    idle_in_transaction_session_timeout: IDLE_IN_TRANSACTION_MS,
    queryTimeoutMs,
    doubtMs,
    watch: watchSilence(url, log),
    onConnect: greet,
  }
}

/** Limits of the server's side are those of the pooler's user there: see docs/deployments.md. */
function pooledOptions({ url, queryTimeoutMs }: PoolOptions) {
  return { ...pooledSettings(url), queryTimeoutMs, isPooled: true, onConnect: refuseUnsound }
}

/**
 * A role, database or server with `synchronous_commit = off` would make every answer "durable" a lie. Any other
 * value stays, stronger ones among them; and what we relax on purpose is local to its transaction and still wins.
 */
async function greet(client: ClientBase): Promise<void> {
  const { rows } = await client.query<{ pid: number }>(`/* pool.durability */
    select
      pg_backend_pid() as pid,
      case when current_setting('synchronous_commit') = 'off' then set_config('synchronous_commit', 'on', false) end`)
  const [server] = rows
  if (server !== undefined && client instanceof PoolClient) client.recognize(server.pid)
}
