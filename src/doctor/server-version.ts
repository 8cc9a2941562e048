import { type Finding, ok, problem } from './finding.ts'
import type { Reader } from './reader.ts'

const OLDEST = 150_000

type Server = {
  readonly number: number
  readonly version: string
  readonly encoding: string
  readonly is_standby: boolean
  readonly is_read_only: boolean
  readonly isolation: string
}

/** Whether this is a server, and a database, that Sluice can work with at all. */
export async function checkServer({ ask }: Reader): Promise<Finding[]> {
  const [server] = await ask<Server>(`/* doctor.server */
    select
      current_setting('server_version_num')::integer as number,
      split_part(current_setting('server_version'), ' ', 1) as version,
      current_setting('server_encoding') as encoding,
      pg_is_in_recovery() as is_standby,
      coalesce((select setting = 'on' from pg_settings where name = 'default_transaction_read_only'), false) as is_read_only,
      current_setting('default_transaction_isolation') as isolation`)
  if (server === undefined) return []
  const findings = [versionOf(server)]
  if (server.encoding !== 'UTF8') {
    findings.push(
      problem(
        'encoding',
        `the database is in ${server.encoding}: names and subjects in other languages cannot be stored`,
        "create it with: create database … encoding 'UTF8' template template0",
      ),
    )
  }
  if (server.is_standby) {
    findings.push(
      problem('primary', 'this server is a standby, which takes no mail', 'connect to the primary'),
    )
  } else if (server.is_read_only) {
    findings.push(
      problem(
        'primary',
        'transactions are read-only by default (default_transaction_read_only)',
        'switch it off for this user or database, or connect to the primary',
      ),
    )
  }
  if (server.isolation !== 'read committed') {
    findings.push(
      problem(
        'isolation',
        `transactions are ${server.isolation} by default: what many processes take side by side would fail`,
        "alter role … in database … set default_transaction_isolation = 'read committed'",
      ),
    )
  }
  return findings
}

function versionOf({ number, version }: Server): Finding {
  if (number >= OLDEST) return ok('version', `PostgreSQL ${version}`)
  return problem('version', `PostgreSQL ${version}`, 'upgrade the server: Sluice needs 15 or newer')
}
