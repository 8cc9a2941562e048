import type { ClientConfig } from 'pg'
import { isLoopback } from '../network/loopback.ts'

/** Parameters of a URL by which it says itself how the connection is to be protected. */
const SAID = ['ssl', 'sslmode', 'sslcert', 'sslkey', 'sslrootcert', 'sslnegotiation']

/**
 * Encrypts what leaves this machine, and checks the server's certificate and name (libpq's verify-full), unless the URL
 * says otherwise: `sslmode=disable`, or `no-verify`. The driver by itself would speak in the clear. (Of pg 8.23 and
 * pg-connection-string 2: `prefer`, `require` and `verify-ca` all mean verify-full; PGSSLMODE only counts here.)
 */
export function verifiedTls(url: string): Pick<ClientConfig, 'ssl'> {
  return isTlsImplied(url) ? { ssl: true } : {}
}

function isTlsImplied(text: string): boolean {
  const url = URL.parse(text)
  // What only the driver can read may lead anywhere.
  if (url === null) return true
  if (SAID.some((name) => url.searchParams.has(name))) return false
  const given = url.searchParams.get('host') ?? decodeURIComponent(url.hostname)
  const host = (given || process.env.PGHOST || 'localhost').replace(/^\[(.*)\]$/, '$1')
  // A path is a socket of this machine.
  return !host.startsWith('/') && !isLoopback(host)
}

/** No verified connection to the database can be had. The message says what to write, and quotes no password. */
export class DatabaseTlsError extends Error {
  readonly code = 'database_tls_failed'
  readonly retryable = false
}

/** By Node's and OpenSSL's names: a certificate, or the handshake itself. */
export function isTlsCode(code: string): boolean {
  return /^(?:ERR_TLS|ERR_SSL|CERT_|SELF_SIGNED|DEPTH_ZERO|UNABLE_TO)/.test(code)
}

/** The driver has none to give where the server asks for one; it says so without a code. */
export function lacksPassword(error: Error): boolean {
  return error.message.includes('password must be')
}

/** What went wrong before the server knew who we are. Its own refusals and the system's have codes of their own. */
export function explainTls(url: string, error: unknown): unknown {
  const code = String((error as { code?: unknown } | null)?.code ?? '')
  if (!isTlsImplied(url) || !(error instanceof Error) || lacksPassword(error)) return error
  if (code !== '' && !isTlsCode(code)) return error
  return new DatabaseTlsError(
    `There is no verified TLS connection to the database: ${error.message}.\nConnections that leave this machine are encrypted, and the server's certificate is checked. Add to DATABASE_URL:\n  sslrootcert=/path/to/ca.pem   when its certificate comes from a CA of your own\n  sslmode=disable               when the network itself is trusted, such as one of containers on one host`,
    { cause: error },
  )
}
