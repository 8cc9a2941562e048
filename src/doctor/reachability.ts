import { Client } from 'pg'
import { pooledSettings } from '../db/connection-settings.ts'
import {
  DIFFERENT_PLACES,
  faultsOf,
  placeOf,
  poolingOf,
  readPooledConnection,
  SESSION_ADVICE,
} from '../db/pooler.ts'
import { sqlState } from '../db/sqlstate.ts'
import { explainTls } from '../db/verified-tls.ts'
import { type Finding, ok, problem, warning } from './finding.ts'

/** Whether the database can be reached, how long that takes, and what stands in between. */

const CONNECT_MS = 5_000
/** A send takes a handful of round trips, and so does a durable answer. */
const SLOW_MS = 20
const PINGS = 5

/** A connection for the checks; it answers within moments or not at all. */
export async function connect(url: string): Promise<Client> {
  const client = new Client({
    ...pooledSettings(url),
    application_name: 'sluice doctor',
    connectionTimeoutMillis: CONNECT_MS,
    query_timeout: 2 * CONNECT_MS,
  })
  // A connection that breaks fails the question under way; the event has nothing to add.
  client.on('error', () => undefined)
  await client.connect().catch((error: unknown) => {
    throw explainTls(url, error)
  })
  return client
}

/** Where a URL leads, without its password. */
export function placeOfUrl(url: string): string {
  const parsed = URL.parse(url)
  if (parsed === null) return 'the database'
  const host = parsed.searchParams.get('host') ?? parsed.hostname
  return `${host === '' ? 'the local socket' : host}${parsed.port === '' ? '' : `:${parsed.port}`}${parsed.pathname}`
}

export function unreachable(name: string, url: string, error: unknown): Finding {
  const reason = error instanceof Error ? error.message || error.name : String(error)
  return problem(name, `${placeOfUrl(url)} cannot be reached: ${reason}`, adviceFor(error, name))
}

/** By SQLSTATE (PostgreSQL manual, appendix A) or the system's code. */
function adviceFor(error: unknown, variable: string): string {
  const code = sqlState(error) ?? (error as { code?: unknown } | null)?.code
  switch (code) {
    case '28P01':
    case '28000':
      return `correct user and password in ${variable} (percent-encoded), or let the user in by pg_hba.conf`
    case '3D000':
      return `create the database, or correct its name in ${variable}`
    case '42501':
      return 'grant connect on the database to this user'
    case '53300':
      return 'all connections are taken: raise max_connections, or end processes that hold idle ones'
    case '57P03':
      return 'the server is starting, stopping or recovering: wait, and look at its log'
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return `correct the host in ${variable}, or repair the name service of this machine`
    case 'ECONNREFUSED':
      return `start Postgres there, correct host and port in ${variable}, or let it listen on this address (listen_addresses)`
    default:
      return `check host, port and firewall, and whether the server asks for TLS (sslmode in ${variable})`
  }
}

export async function checkLatency(client: Client): Promise<Finding> {
  const times: number[] = []
  for (let ping = 0; ping < PINGS; ping += 1) {
    const start = performance.now()
    await client.query('select 1')
    times.push(performance.now() - start)
  }
  const best = Math.min(...times)
  const found = `a round trip takes ${best.toFixed(1)} ms`
  if (best <= SLOW_MS) return ok('round trip', found)
  return warning('round trip', found, 'run the processes in the same region, or zone, as the database')
}

/** For a URL that is used as if nothing stood in between. */
export async function checkSession(client: Client, url: string): Promise<Finding> {
  const name = 'pooler'
  switch (await poolingOf(client, url)) {
    case 'none':
      return ok(name, 'the server itself answers')
    case 'session':
      return warning(
        name,
        'a pooler or proxy stands in between; as far as can be seen it leaves a connection its server',
        'if it pools transactions, set SLUICE_SESSION_DATABASE_URL; see docs/deployments.md',
      )
    case 'transaction':
      return problem(
        name,
        'a pooler in transaction mode stands in between, and workers need a session',
        SESSION_ADVICE,
      )
  }
}

/** For a DATABASE_URL beside which there is one for sessions, which `session` was connected with. */
export async function checkPooled(client: Client, session: Client): Promise<Finding[]> {
  const name = 'pooler'
  if ((await placeOf(client)) !== (await placeOf(session))) {
    return [problem(name, DIFFERENT_PLACES, 'let both name the same database of the same server')]
  }
  const found = await readPooledConnection(client)
  const faults = faultsOf(found).map(({ fault, remedy }) =>
    problem(name, fault, `run "${remedy}", then RECONNECT on the pooler's console`),
  )
  const alter = `alter role ${found.user} in database ${found.database} set`
  const limits = [
    { setting: 'statement_timeout', ms: found.statement_timeout_ms, value: '25s' },
    { setting: 'idle_in_transaction_session_timeout', ms: found.idle_in_transaction_ms, value: '10s' },
  ]
  const unlimited = limits
    .filter(({ ms }) => ms === 0)
    .map(({ setting, value }) =>
      warning(
        name,
        `connections of the pooler have no ${setting}: one that hangs holds its locks`,
        `run "${alter} ${setting} = '${value}'"`,
      ),
    )
  const findings = [...faults, ...unlimited]
  return findings.length > 0
    ? findings
    : [ok(name, `commits, rights and limits of ${found.user} are as they should be`)]
}

/** Or the local socket. */
const LOOPBACK = /^(?:localhost|127(?:\.\d+){3}|\[::1\]|)$/

/** On a network others can listen on, mail and passwords of keys would be read. */
export async function checkEncryption(client: Client, url: string): Promise<Finding> {
  const name = 'encryption'
  const host = URL.parse(url)?.hostname ?? ''
  const { rows } = await client.query<{ ssl: boolean }>(
    '/* doctor.encryption */ select ssl from pg_stat_ssl where pid = pg_backend_pid()',
  )
  if (rows[0]?.ssl === true) return ok(name, 'the connection is encrypted')
  if (LOOPBACK.test(host)) return ok(name, 'the connection stays on this machine')
  return warning(
    name,
    `the connection to ${host} is not encrypted`,
    'add sslmode=verify-full to the URL, and sslrootcert=… where the server has a certificate of its own',
  )
}
