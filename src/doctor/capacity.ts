import type { Config } from '../config.ts'
import { type Finding, ok, problem, warning } from './finding.ts'
import type { Reader } from './reader.ts'
import { counted, size } from './words.ts'

/** Whether the server has room for what the processes ask of it. */

type Room = {
  readonly most: number
  readonly reserved: number
  readonly used: number
  readonly role_limit: number
  readonly database_limit: number
}

/** Connections of a worker beside its pool: its session. */
const SESSION = 1

export async function checkConnections(
  { ask }: Reader,
  {
    databaseConnections,
    roles,
    sessionDatabaseUrl,
  }: Pick<Config, 'databaseConnections' | 'roles' | 'sessionDatabaseUrl'>,
): Promise<Finding> {
  const name = 'connections'
  const [room] = await ask<Room>(`/* doctor.connections */
    select
      current_setting('max_connections')::integer as most,
      (select sum(setting::integer)::integer from pg_settings
       where name in ('superuser_reserved_connections', 'reserved_connections')) as reserved,
      -- Our own processes are counted by what they may open, not by what they hold just now.
      (select count(*)::integer from pg_stat_activity
       where backend_type = 'client backend' and application_name not like 'sluice%') as used,
      (select rolconnlimit from pg_roles where rolname = session_user) as role_limit,
      (select datconnlimit from pg_database where datname = current_database()) as database_limit`)
  if (room === undefined) return ok(name, 'not known')
  const bounds = [room.most - room.reserved - room.used, room.role_limit, room.database_limit]
  const free = Math.min(...bounds.filter((bound) => bound >= 0))
  const session = roles.has('worker') ? SESSION : 0
  const each = (sessionDatabaseUrl === undefined ? databaseConnections : 0) + session
  if (each === 0) return ok(name, 'the pooler counts them')
  const processes = Math.floor(free / each)
  const found = `room for ${free}; a process with these settings opens up to ${each}: ${counted(processes, 'process', 'processes')}`
  const advice =
    'raise max_connections, lower SLUICE_DATABASE_CONNECTIONS, or put a pooler in between (docs/deployments.md)'
  if (processes === 0) return problem(name, found, advice)
  return processes === 1
    ? warning(name, `${found}, and none beside it during a deployment`, advice)
    : ok(name, found)
}

type Memory = {
  readonly shared_buffers: string
  readonly max_wal_size: string
  readonly jit_above_cost: number
  readonly jit: boolean
}

const LEAST_BUFFERS = 128 * 1_024 ** 2
const LEAST_WAL = 1_024 ** 3
/** The default; below it, compiling costs more than it saves for statements as short as ours. */
const LEAST_JIT_COST = 100_000

export async function checkMemory({ ask }: Reader): Promise<Finding[]> {
  const [memory] = await ask<Memory>(`/* doctor.memory */
    select
      pg_size_bytes(current_setting('shared_buffers'))::text as shared_buffers,
      pg_size_bytes(current_setting('max_wal_size'))::text as max_wal_size,
      current_setting('jit')::boolean as jit,
      current_setting('jit_above_cost')::double precision as jit_above_cost`)
  if (memory === undefined) return []
  const buffers = Number(memory.shared_buffers)
  const wal = Number(memory.max_wal_size)
  const findings: Finding[] = []
  if (buffers < LEAST_BUFFERS) {
    findings.push(
      warning(
        'shared_buffers',
        `${size(buffers)}: the hot tables do not stay in memory`,
        'a quarter of the memory of the database host, 128 MB at least (needs a restart)',
      ),
    )
  }
  if (wal < LEAST_WAL) {
    findings.push(
      warning(
        'max_wal_size',
        `${size(wal)}: a burst of mail forces checkpoints, which write everything twice`,
        "alter system set max_wal_size = '4GB'; select pg_reload_conf()",
      ),
    )
  }
  if (memory.jit && memory.jit_above_cost < LEAST_JIT_COST) {
    findings.push(
      warning(
        'jit',
        `statements are compiled above a cost of ${memory.jit_above_cost}: ours are too short for that`,
        'alter system reset jit_above_cost, or switch jit off for the user of the service',
      ),
    )
  }
  if (findings.length > 0) return findings
  return [ok('memory', `shared_buffers ${size(buffers)}, max_wal_size ${size(wal)}`)]
}

/** A limit meant for others that would end what Sluice needs longer for, where it sets none of its own. */
const LIMITS = [
  { setting: 'statement_timeout', leastMs: 60_000, ends: 'migrations' },
  // Two processes that start together: the second waits until the first has migrated.
  { setting: 'lock_timeout', leastMs: 10_000, ends: 'migrations' },
  { setting: 'transaction_timeout', leastMs: 300_000, ends: 'bulks that come in slowly' },
  {
    setting: 'idle_session_timeout',
    leastMs: 60_000,
    ends: 'connections of the pool that are waiting for work',
  },
] as const

export async function checkLimits({ ask }: Reader): Promise<Finding[]> {
  const rows = await ask<{ name: string; ms: number }>(
    '/* doctor.limits */ select name, reset_val::integer as ms from pg_settings where name = any ($1)',
    [LIMITS.map(({ setting }) => setting)],
  )
  const findings = rows.flatMap(({ name, ms }) => {
    const limit = LIMITS.find(({ setting }) => setting === name)
    if (limit === undefined || ms === 0 || ms >= limit.leastMs) return []
    return warning(
      name,
      `${ms} ms for this user, which ends ${limit.ends}`,
      `alter role … in database … set ${name} = 0 for the user of the service`,
    )
  })
  return findings.length > 0 ? findings : [ok('time limits', 'none of the server ends what Sluice does')]
}

export async function checkSize({ ask }: Reader): Promise<Finding> {
  const [found] = await ask<{ bytes: string }>(
    '/* doctor.size */ select pg_database_size(current_database())::text as bytes',
  )
  return ok(
    'size',
    `the database has ${size(Number(found?.bytes))}; what is left of the disk only its host knows`,
  )
}
