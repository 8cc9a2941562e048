import { sqlState } from './sqlstate.ts'
import { isTlsCode, lacksPassword } from './verified-tls.ts'

/**
 * A process that starts finds no database: the server is away, or does not let it in. The message says what to do. Of one that
 * was there before, a ConnectionError tells.
 */
export class DatabaseUnreachableError extends Error {
  readonly code = 'database_unreachable'
  /** The server may be starting, or somebody about to make the database. */
  readonly retryable = true

  constructor(url: string, cause: unknown) {
    super(`${describeUnreachable(url, cause)}.\nWhat to do: ${adviceFor(cause, 'its URL')}.`, { cause })
    this.name = 'DatabaseUnreachableError'
  }
}

/** `db.example.com:5432/mail cannot be reached: connect ECONNREFUSED`. */
export function describeUnreachable(url: string, error: unknown): string {
  return `${placeOfUrl(url)} cannot be reached: ${reasonOf(error)}`
}

/** Of a name with several addresses the system says one reason for each, and none for all. */
function reasonOf(error: unknown): string {
  if (error instanceof AggregateError) return error.errors.map(reasonOf).join('; ')
  return error instanceof Error ? error.message || error.name : String(error)
}

/** Where a URL leads, without its password. */
export function placeOfUrl(url: string): string {
  const parsed = URL.parse(url)
  if (parsed === null) return 'the database'
  const host = parsed.searchParams.get('host') ?? parsed.hostname
  return `${host === '' ? 'the local socket' : host}${parsed.port === '' ? '' : `:${parsed.port}`}${parsed.pathname}`
}

/** By SQLSTATE (PostgreSQL manual, appendix A) or the system's code; `where` is where the URL is written. */
export function adviceFor(error: unknown, where: string): string {
  const code = sqlState(error) ?? (error as { code?: unknown } | null)?.code
  switch (code) {
    case '28P01':
    case '28000':
      return `correct user and password in ${where} (percent-encoded), or let the user in by pg_hba.conf`
    case '3D000':
      return `create the database, or correct its name in ${where}`
    case '42501':
      return 'grant connect on the database to this user'
    case '53300':
      return 'all connections are taken: raise max_connections, or end processes that hold idle ones'
    case '57P03':
      return 'the server is starting, stopping or recovering: wait, and look at its log'
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return `correct the host in ${where}, or repair the name service of this machine`
    case 'ECONNREFUSED':
      return `start Postgres there, correct host and port in ${where}, or let it listen on this address (listen_addresses)`
    default:
      if (error instanceof Error && lacksPassword(error)) return `write user and password into ${where}`
      if (isTlsCode(String(code)))
        return `name the file of its CA in ${where} (sslrootcert), and the host that its certificate is for`
      return `check host, port and firewall, and whether the server asks for TLS (sslmode in ${where})`
  }
}
