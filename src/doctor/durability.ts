import { type Finding, ok, problem, warning } from './finding.ts'
import type { Reader } from './reader.ts'
import { counted, listed, size } from './words.ts'

/** Whether a commit is kept: what "durable" and every status rest on. */

type Settings = Readonly<Record<string, string>>

const NAMES = [
  'fsync',
  'full_page_writes',
  'synchronous_commit',
  'synchronous_standby_names',
  'max_slot_wal_keep_size',
]

export async function checkDurability(reader: Reader): Promise<Finding[]> {
  const rows = await reader.ask<{ name: string; setting: string }>(
    '/* doctor.durability */ select name, setting from pg_settings where name = any ($1)',
    [NAMES],
  )
  const settings: Settings = Object.fromEntries(rows.map(({ name, setting }) => [name, setting]))
  return [
    ...diskFindings(settings),
    await checkCommits(reader, settings),
    await checkStandbys(reader, settings),
    ...(await checkSlots(reader)),
  ]
}

function diskFindings({ fsync, full_page_writes: fullPageWrites }: Settings): Finding[] {
  const findings: Finding[] = []
  if (fsync === 'off') {
    findings.push(
      problem(
        'fsync',
        'off: a power cut can destroy the database, with all mail in it',
        'alter system set fsync = on; select pg_reload_conf()',
      ),
    )
  }
  if (fullPageWrites === 'off') {
    findings.push(
      problem(
        'full_page_writes',
        'off: a page half written at a power cut stays broken',
        'alter system set full_page_writes = on; select pg_reload_conf() (a file system that writes whole pages, such as ZFS, may do without)',
      ),
    )
  }
  return findings.length > 0 ? findings : [ok('fsync', 'what is committed is on the disk')]
}

/** The service switches `off` to `on` for its own connections; whoever writes by SQL has what is set here. */
async function checkCommits({ ask }: Reader, { synchronous_commit: here = '' }: Settings): Promise<Finding> {
  const name = 'synchronous_commit'
  const relaxed = await ask<{ place: string }>(`/* doctor.relaxed_commits */
    select concat_ws(' in ', coalesce('role ' || r.rolname, 'every role'), 'database ' || d.datname) as place
    from pg_db_role_setting s
    left join pg_roles r on r.oid = s.setrole
    left join pg_database d on d.oid = s.setdatabase
    where s.setconfig && array['synchronous_commit=off']
      and (s.setdatabase = 0 or d.datname = current_database())
    order by place`)
  const places = relaxed.map(({ place }) => place)
  if (here !== 'off' && places.length === 0) return ok(name, here)
  return warning(
    name,
    `off for ${places.length > 0 ? listed(places) : 'this server'}: the service asks for durable commits itself, but mail that others write by SQL can be lost in a crash`,
    places.length > 0
      ? 'alter role … reset synchronous_commit (or alter database …), or let writers "set synchronous_commit = on"'
      : 'alter system set synchronous_commit = on; select pg_reload_conf()',
  )
}

/** Rows of others are shown to anybody; what is in them only to members of pg_monitor. */
async function checkStandbys(
  { ask }: Reader,
  { synchronous_standby_names: wanted = '' }: Settings,
): Promise<Finding> {
  const name = 'standbys'
  const [seen] = await ask<{
    standbys: number
    synchronous: number
    may_look: boolean
  }>(`/* doctor.standbys */
    select
      count(*) filter (where backend_type = 'walsender')::integer as standbys,
      (select count(*)::integer from pg_stat_replication where sync_state in ('sync', 'quorum')) as synchronous,
      pg_has_role('pg_read_all_stats', 'usage') as may_look
    from pg_stat_activity`)
  const { standbys = 0, synchronous = 0, may_look: mayLook = false } = seen ?? {}
  if (wanted !== '' && synchronous === 0 && (mayLook || standbys === 0)) {
    return problem(
      name,
      `synchronous_standby_names is "${wanted}" and no such standby is connected: every commit waits for it`,
      'start the standby, or take it out of synchronous_standby_names',
    )
  }
  if (wanted !== '') return ok(name, `commits wait for ${wanted}`)
  if (standbys === 0) return ok(name, 'none are connected')
  return warning(
    name,
    `${counted(standbys, 'standby', 'standbys')}, asynchronous: a failover loses what was committed last, durable answers included`,
    'set synchronous_standby_names where that is not acceptable; see docs/deployments.md',
  )
}

const MUCH_WAL = 1_024 ** 3

/** A slot that nobody reads keeps all WAL since, until the disk is full and the server stops. */
async function checkSlots({ ask }: Reader): Promise<Finding[]> {
  const slots = await ask<{ name: string; kept: string; is_bounded: boolean }>(`/* doctor.slots */
    select
      slot_name as name,
      coalesce(pg_wal_lsn_diff(
        case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end, restart_lsn
      ), 0)::bigint as kept,
      current_setting('max_slot_wal_keep_size') <> '-1' as is_bounded
    from pg_replication_slots
    where not active
    order by 2 desc`)
  return slots.map(({ name, kept, is_bounded: isBounded }) => {
    const found = `nobody reads slot "${name}", which keeps ${size(Number(kept))} of WAL`
    const advice = `connect its reader, or "select pg_drop_replication_slot('${name}')"; max_slot_wal_keep_size bounds what slots may keep`
    const isGrave = Number(kept) > MUCH_WAL && !isBounded
    return (isGrave ? problem : warning)('replication slots', found, advice)
  })
}
