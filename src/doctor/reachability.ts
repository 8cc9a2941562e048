import type { Client } from 'pg'
import { pooledSettings } from '../db/connection-settings.ts'
import { openClient } from '../db/one-client.ts'
import {
  DIFFERENT_PLACES,
  faultsOf,
  placeOf,
  poolingOf,
  readPooledConnection,
  SESSION_ADVICE,
} from '../db/pooler.ts'
import { adviceFor, DatabaseUnreachableError, describeUnreachable } from '../db/unreachable.ts'
import { type Finding, ok, problem, warning } from './finding.ts'

/** Whether the database can be reached, how long that takes, and what stands in between. */

const CONNECT_MS = 5_000
/** A send takes a handful of round trips, and so does a durable answer. */
const SLOW_MS = 20
const PINGS = 5

/** A connection for the checks; it answers within moments or not at all. */
export function connect(url: string): Promise<Client> {
  return openClient(url, {
    ...pooledSettings(url),
    application_name: 'sluice doctor',
    connectionTimeoutMillis: CONNECT_MS,
    query_timeout: 2 * CONNECT_MS,
  })
}

export function unreachable(name: string, url: string, error: unknown): Finding {
  const reason = error instanceof DatabaseUnreachableError ? error.cause : error
  return problem(name, describeUnreachable(url, reason), adviceFor(reason, name))
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
