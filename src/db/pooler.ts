import type { Client, ClientBase } from 'pg'
import { pooledSettings } from './connection-settings.ts'
import { openClient } from './one-client.ts'
import { SchemaError } from './schema-error.ts'

/**
 * A pooler in transaction mode (PgBouncer and its like) lends a server connection for one transaction and then gives it
 * to the next client: nothing that outlives a transaction can be asked for through it. What Sluice sets on its own
 * connections must there come with the user that the pooler logs in as, and is checked instead of set.
 */

const CONNECT_TIMEOUT_MS = 5_000
/** Looks at whether a connection changes its server under us. A busy pooler shows it at the first or second. */
const LOOKS = 5

export type Pooling =
  /** The server itself answered. */
  | 'none'
  /** Somebody stands between, who as far as can be seen leaves a connection its server. */
  | 'session'
  /** The server behind a connection changes from one transaction to the next. */
  | 'transaction'

/** What stands between `client` and its server; `url` is what the client was connected with. */
export async function poolingOf(client: Client, url: string): Promise<Pooling> {
  // What the server calls itself when it greets. A pooler that greets by itself makes up a number.
  const { processID } = client as unknown as { processID: number | null }
  if (processID === (await serverOf(client))) return 'none'
  const other = await openBriefly(url)
  try {
    const servers = new Set<number>()
    for (let look = 0; look < LOOKS; look += 1) {
      // While one client holds its server in a transaction the other cannot have that one; a moment later it may.
      await client.query('begin')
      servers.add(await serverOf(other))
      await client.query('commit')
      servers.add(await serverOf(other))
    }
    return servers.size > 1 ? 'transaction' : 'session'
  } finally {
    await other.end()
  }
}

async function serverOf(client: Client): Promise<number> {
  const { rows } = await client.query<{ pid: number }>('/* pooler.server */ select pg_backend_pid() as pid')
  return rows[0]?.pid ?? 0
}

export const SESSION_ADVICE =
  'set SLUICE_SESSION_DATABASE_URL to a URL of the same database that does not go through the pooler, and leave DATABASE_URL as it is'

/** @throws SchemaError where session state would leak to others and advisory locks would be worth nothing */
export async function refuseTransactionPooler(client: Client, url: string): Promise<void> {
  if ((await poolingOf(client, url)) !== 'transaction') return
  throw new SchemaError(
    'session_needed',
    `this connection leads through a pooler in transaction mode, and migrations and workers need a session: ${SESSION_ADVICE}`,
  )
}

/** What a server connection of the pooler is like. */
export type PooledConnection = {
  /** Quoted, where need be, as it stands in SQL. */
  readonly user: string
  readonly database: string
  readonly synchronous_commit: string
  readonly statement_timeout_ms: number
  readonly idle_in_transaction_ms: number
  /** It has the rights of mail_service. */
  readonly can_work: boolean
  /** It has the owner's rights too, which a service on connections of its own would lay down. */
  readonly may_more: boolean
}

export async function readPooledConnection(client: ClientBase): Promise<PooledConnection> {
  const { rows } = await client.query<PooledConnection>(`/* pool.pooled */
    select
      quote_ident(session_user) as "user", quote_ident(current_database()) as database,
      current_setting('synchronous_commit') as synchronous_commit,
      (select setting::integer from pg_settings where name = 'statement_timeout') as statement_timeout_ms,
      (select setting::integer from pg_settings where name = 'idle_in_transaction_session_timeout') as idle_in_transaction_ms,
      coalesce(pg_has_role(to_regrole('mail_service')::oid, 'usage'), false) or pg_has_role(n.nspowner, 'usage') as can_work,
      coalesce(pg_has_role(to_regrole('mail_service')::oid, 'member') and pg_has_role(n.nspowner, 'member'), false) as may_more
    from pg_namespace n
    where n.nspname = 'mail'`)
  const [found] = rows
  if (found !== undefined) return found
  throw new SchemaError(
    'pooler_unsound',
    'the database behind the pooler of DATABASE_URL has no schema mail: it is not the one of SLUICE_SESSION_DATABASE_URL',
  )
}

export type UnsoundPooler = { readonly fault: string; readonly remedy: string }

/** What keeps the promises of Sluice from being kept through this pooler; empty when nothing does. */
export function faultsOf({ user, database, ...is }: PooledConnection): UnsoundPooler[] {
  const alter = `alter role ${user} in database ${database}`
  const faults: UnsoundPooler[] = []
  if (is.synchronous_commit === 'off') {
    faults.push({
      fault: 'commits do not wait for the disk there, so no answer could be durable',
      remedy: `${alter} set synchronous_commit = 'on'`,
    })
  }
  if (is.may_more) {
    faults.push({
      fault: `the service would run with all rights of ${user}, which may change the schema`,
      remedy: `${alter} set role = 'mail_service'`,
    })
  } else if (!is.can_work) {
    faults.push({
      fault: `${user} has not the rights of mail_service there`,
      remedy: `grant mail_service to ${user}`,
    })
  }
  return faults
}

/** For every connection to a pooler: a server connection that is not sound costs the connection, and nothing worse. */
export async function refuseUnsound(client: ClientBase): Promise<void> {
  const faults = faultsOf(await readPooledConnection(client))
  if (faults.length === 0) return
  const sentences = faults.map(({ fault, remedy }) => `${fault}: run "${remedy}"`)
  throw new SchemaError(
    'pooler_unsound',
    `through the pooler of DATABASE_URL ${sentences.join('; ')}; then RECONNECT on the pooler's console, or restart it`,
  )
}

/**
 * At start, before anything is accepted.
 *
 * @throws SchemaError also when the two URLs lead to different databases: workers would register in one and claim in another
 */
export async function refuseUnsoundPooler(url: string, sessionUrl: string): Promise<void> {
  const place = await connected(url, async (client) => {
    await refuseUnsound(client)
    return placeOf(client)
  })
  if (place === (await connected(sessionUrl, placeOf))) return
  throw new SchemaError('pooler_unsound', `${DIFFERENT_PLACES}: both must name the same one`)
}

export const DIFFERENT_PLACES =
  'DATABASE_URL and SLUICE_SESSION_DATABASE_URL lead to different databases, or servers'

/** The same for two connections to one database of one running server, and for no others. */
export async function placeOf(client: Client): Promise<string> {
  const { rows } = await client.query<{ place: string }>(
    `/* pooler.place */
     select concat_ws(' ', oid, pg_postmaster_start_time()) as place from pg_database where datname = current_database()`,
  )
  return rows[0]?.place ?? ''
}

async function connected<T>(url: string, work: (client: Client) => Promise<T>): Promise<T> {
  const client = await openBriefly(url)
  try {
    return await work(client)
  } finally {
    await client.end()
  }
}

function openBriefly(url: string): Promise<Client> {
  const limits = { connectionTimeoutMillis: CONNECT_TIMEOUT_MS, query_timeout: CONNECT_TIMEOUT_MS }
  return openClient(url, { ...pooledSettings(url), ...limits })
}
