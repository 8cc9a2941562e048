import type { ClientConfig } from 'pg'
import { verifiedTls } from './verified-tls.ts'

/** A quiet connection is asked for a sign of life after so long, then each second; the third silence ends it. */
const KEEPALIVE_IDLE_S = 3
const KEEPALIVE_INTERVAL_S = 1
const KEEPALIVE_COUNT = 3
/** The same patience for what was sent and never acknowledged, which keepalives do not watch. */
const UNACKNOWLEDGED_MS = (KEEPALIVE_IDLE_S + KEEPALIVE_INTERVAL_S * KEEPALIVE_COUNT) * 1_000

/**
 * How every long-lived connection reaches the server. Both ends watch over it: a host that vanishes says no
 * goodbye, and with the system's own settings the server would keep its locks and transactions for two hours.
 * `settings` are more of the server's, for this connection.
 */
export function connectionSettings(
  url: string,
  role: string | undefined,
  settings: Readonly<Record<string, number>> = {},
): ClientConfig {
  const { connectionString, options } = takeOptions(url)
  const ours = {
    tcp_keepalives_idle: KEEPALIVE_IDLE_S,
    tcp_keepalives_interval: KEEPALIVE_INTERVAL_S,
    tcp_keepalives_count: KEEPALIVE_COUNT,
    tcp_user_timeout: UNACKNOWLEDGED_MS,
    ...(role === undefined ? {} : { role }),
    ...settings,
  }
  return {
    connectionString,
    ...verifiedTls(url),
    options: [...options, ...Object.entries(ours).map(([name, value]) => `-c ${name}=${value}`)].join(' '),
    keepAlive: true,
    keepAliveInitialDelayMillis: KEEPALIVE_IDLE_S * 1_000,
  }
}

/**
 * How a pooler in transaction mode is reached. It lends a server connection for a transaction, refuses parameters it does
 * not know, and would hand what is set on a connection to strangers: so nothing is (pooler.ts).
 */
export function pooledSettings(url: string): ClientConfig {
  return {
    connectionString: url,
    ...verifiedTls(url),
    keepAlive: true,
    keepAliveInitialDelayMillis: KEEPALIVE_IDLE_S * 1_000,
  }
}

/** The driver lets `options` of a URL replace those it is given: they are taken out, to stand beside ours. */
function takeOptions(url: string): { connectionString: string; options: string[] } {
  const parsed = URL.parse(url)
  const options = parsed?.searchParams.getAll('options') ?? []
  if (parsed === null || options.length === 0) return { connectionString: url, options: [] }
  parsed.searchParams.delete('options')
  return { connectionString: parsed.href, options }
}
