import { Kysely, PostgresDialect } from 'kysely'
import { Client, type ClientBase, type ClientConfig, DatabaseError, Pool } from 'pg'
import type { Log } from '../log.ts'
import { ConnectionError } from './connection-error.ts'
import { connectionSettings, pooledSettings } from './connection-settings.ts'
import { refuseUnsound } from './pooler.ts'
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
}

const CONNECT_TIMEOUT_MS = 3_000
/** Our longest statement takes a second or two: past this it waits for a lock, and holds others itself. */
export const STATEMENT_TIMEOUT_MS = 25_000
/** More than the server's own limit: whoever reaches it no longer speaks to a server at all. */
const QUERY_TIMEOUT_MS = 30_000
/** No transaction of ours waits between two statements; one that does belongs to a process that hangs. */
export const IDLE_IN_TRANSACTION_MS = 60_000

/** The statements that run for every batch; each is planned once a connection instead of every time. */
const HOT = /^\/\* (?:intake|processing|dispatch|feedback)\.|\bpgboss\./
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

type ClientOptions = ClientConfig & { readonly queryTimeoutMs?: number; readonly isPooled?: boolean }

/**
 * A client that names hot statements, which is how the driver prepares them, and that gives up a connection
 * on which the server does not answer. The driver's own `query_timeout` would leave it in use: a transaction
 * would go back to the pool with its statement still under way, and hold up everybody after it.
 */
class PoolClient extends Client {
  readonly #queryTimeoutMs: number
  /** A name belongs to one server connection, and the next transaction may be on another. */
  readonly #mayPrepare: boolean
  #isLost = false

  constructor(options: ClientOptions = {}) {
    super(options)
    this.#queryTimeoutMs = options.queryTimeoutMs ?? QUERY_TIMEOUT_MS
    this.#mayPrepare = options.isPooled !== true
    const lose = () => {
      this.#isLost = true
    }
    this.on('error', lose)
    this.on('end', lose)
  }

  // biome-ignore lint/suspicious/noExplicitAny: the driver's own signature has a dozen overloads
  override query(...args: any[]): any {
    const callback = typeof args.at(-1) === 'function' ? args.pop() : undefined
    const [text, values] = args
    const isPreparable = this.#mayPrepare && typeof text === 'string' && Array.isArray(values)
    const name = isPreparable ? preparedNameOf(text) : undefined
    if (name !== undefined) args.splice(0, 2, { name, text, values })
    const answer = this.#answerOf(super.query(...(args as Parameters<Client['query']>)))
    if (callback === undefined) return answer
    answer.then((result) => callback(undefined, result), callback)
  }

  async #answerOf(running: unknown): Promise<unknown> {
    const timer = setTimeout(() => {
      this.connection.stream.destroy(new Error(`no answer within ${this.#queryTimeoutMs} ms`))
    }, this.#queryTimeoutMs)
    try {
      return await running
    } catch (error) {
      throw this.#isLost && !(error instanceof DatabaseError) ? new ConnectionError(error) : error
    } finally {
      clearTimeout(timer)
    }
  }
}

/** A pool whose failures to give a connection are told from every other error by their class. */
class ReportingPool extends Pool {
  // biome-ignore lint/suspicious/noExplicitAny: both of the driver's overloads
  override connect(callback?: (...args: any[]) => void): any {
    if (callback === undefined) {
      return super.connect().catch((error: unknown) => {
        throw new ConnectionError(error)
      })
    }
    return super.connect((error, client, release) =>
      callback(error === undefined ? undefined : new ConnectionError(error), client, release),
    )
  }
}

/**
 * Connections for everything but sessions that must be held (see session.ts). Acquiring one, or losing it
 * under a statement of `db`, fails with a ConnectionError.
 */
export function openPool(options: PoolOptions): { db: Database; pool: Pool; close: () => Promise<void> } {
  const pool = new ReportingPool({
    ...(options.isPooled ? pooledOptions(options) : directOptions(options)),
    Client: PoolClient,
    max: options.maxConnections,
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
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

function directOptions({ url, role, queryTimeoutMs = QUERY_TIMEOUT_MS }: PoolOptions) {
  return {
    ...connectionSettings(url, role),
    statement_timeout: STATEMENT_TIMEOUT_MS,
    idle_in_transaction_session_timeout: IDLE_IN_TRANSACTION_MS,
    queryTimeoutMs,
    onConnect: insistOnDurability,
  }
}

/** Limits of the server's side are those of the pooler's user there: see docs/deployments.md. */
function pooledOptions({ url, queryTimeoutMs = QUERY_TIMEOUT_MS }: PoolOptions) {
  return { ...pooledSettings(url), queryTimeoutMs, isPooled: true, onConnect: refuseUnsound }
}

/**
 * A role, database or server with `synchronous_commit = off` would make every answer "durable" a lie. Any other
 * value stays, stronger ones among them; and what we relax on purpose is local to its transaction and still wins.
 */
async function insistOnDurability(client: ClientBase): Promise<void> {
  await client.query(
    "/* pool.durability */ select set_config('synchronous_commit', 'on', false) where current_setting('synchronous_commit') = 'off'",
  )
}
