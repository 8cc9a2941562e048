import { type Finding, ok, problem, warning } from './finding.ts'
import type { Reader } from './reader.ts'
import { counted, duration } from './words.ts'

/**
 * Whether what is updated and deleted is cleaned away. Queues live on it: with dead rows left behind, each look at a queue
 * reads them all again.
 */

export async function checkVacuum(reader: Reader): Promise<Finding[]> {
  return [
    await checkAutovacuum(reader),
    ...(await checkOldTransactions(reader)),
    ...(await checkPrepared(reader)),
    ...(await checkTables(reader)),
    await checkWraparound(reader),
  ]
}

async function checkAutovacuum({ ask }: Reader): Promise<Finding> {
  const name = 'autovacuum'
  const [found] = await ask<{ is_on: boolean; counts: boolean; without: string[] }>(`/* doctor.autovacuum */
    select
      current_setting('autovacuum')::boolean as is_on,
      current_setting('track_counts')::boolean as counts,
      array(
        select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where n.nspname in ('mail', 'pgboss') and c.reloptions && array['autovacuum_enabled=false', 'autovacuum_enabled=off']
      ) as without`)
  if (found?.is_on !== true) {
    return problem(
      name,
      'off: every queue gets slower with each message',
      'alter system set autovacuum = on; select pg_reload_conf()',
    )
  }
  if (!found.counts) {
    const advice = 'alter system set track_counts = on; select pg_reload_conf()'
    return problem(name, 'without track_counts it does not know what to clean', advice)
  }
  const [table] = found.without
  if (table !== undefined) {
    return problem(
      name,
      `switched off for ${found.without.join(', ')}`,
      `alter table ${table} reset (autovacuum_enabled)`,
    )
  }
  return ok(name, 'on')
}

/** The upkeep of any busy table begins to suffer after minutes. */
const LONG_S = 300
const VERY_LONG_S = 3_600

type OldTransaction = {
  readonly pid: number
  readonly who: string
  readonly state: string | null
  readonly age_s: number
}

/** Rows that died since the oldest transaction began stay, in every table. Of others' only members of pg_monitor see the age. */
export async function checkOldTransactions({ ask }: Reader, longS = LONG_S): Promise<Finding[]> {
  const name = 'oldest transaction'
  const [oldest] = await ask<OldTransaction>(`/* doctor.oldest_transaction */
    select
      pid, concat_ws(' of ', nullif(application_name, ''), usename) as who, state,
      extract(epoch from clock_timestamp() - xact_start)::double precision as age_s
    from pg_stat_activity
    where xact_start is not null and pid <> pg_backend_pid() and backend_type <> 'walsender'
      and backend_type not like 'autovacuum%' and (datname = current_database() or backend_xmin is not null)
    order by xact_start
    limit 1`)
  if (oldest === undefined || oldest.age_s < longS) {
    return [ok(name, oldest === undefined ? 'none is open' : duration(oldest.age_s))]
  }
  const found = `${oldest.who} (pid ${oldest.pid}, ${oldest.state ?? 'state unknown'}) has one open for ${duration(oldest.age_s)}, which holds vacuum back`
  const advice = `end it: select pg_terminate_backend(${oldest.pid}); and set idle_in_transaction_session_timeout for that user`
  return [(oldest.age_s >= VERY_LONG_S ? problem : warning)(name, found, advice)]
}

/** Of a coordinator that died between the two phases. */
export async function checkPrepared({ ask }: Reader, longS = LONG_S): Promise<Finding[]> {
  const forgotten = await ask<{ gid: string; age_s: number }>(
    `/* doctor.prepared */
     select gid, extract(epoch from clock_timestamp() - prepared)::double precision as age_s
     from pg_prepared_xacts where prepared < clock_timestamp() - make_interval(secs => $1) order by prepared`,
    [longS],
  )
  return forgotten.map(({ gid, age_s: age }) =>
    problem(
      'prepared transactions',
      `"${gid}" was prepared ${duration(age)} ago and never ended: it holds its locks, and vacuum back`,
      `commit prepared '${gid}', or rollback prepared '${gid}'`,
    ),
  )
}

const MANY_DEAD = 100_000

/** Far past the point at which autovacuum should have come. */
export async function checkTables({ ask }: Reader, many = MANY_DEAD): Promise<Finding[]> {
  const tables = await ask<{ name: string; dead: number; live: number; last_s: number | null }>(
    `/* doctor.dead_rows */
     select
       relid::regclass::text as name, n_dead_tup::double precision as dead, n_live_tup::double precision as live,
       extract(epoch from clock_timestamp() - greatest(last_autovacuum, last_vacuum))::double precision as last_s
     from pg_stat_user_tables
     where schemaname in ('mail', 'pgboss') and n_dead_tup > $1 and n_dead_tup > n_live_tup
     order by n_dead_tup desc
     limit 5`,
    [many],
  )
  return tables.map(({ name, dead, live, last_s: last }) =>
    warning(
      'dead rows',
      `${name} has ${counted(dead, 'dead row')} beside ${counted(live, 'living one')}, vacuumed ${last === null ? 'never' : `${duration(last)} ago`}`,
      `look for what holds vacuum back (oldest transaction, slots, standbys), then: vacuum ${name}`,
    ),
  )
}

/** At 2^31 the server stops writing; autovacuum acts at 200 million by itself. */
const OLD_XID = 500_000_000
const VERY_OLD_XID = 1_500_000_000

async function checkWraparound({ ask }: Reader): Promise<Finding> {
  const [found] = await ask<{ age: number }>(`/* doctor.wraparound */
    select greatest(age(datfrozenxid), mxid_age(datminmxid))::double precision as age
    from pg_database where datname = current_database()`)
  return wraparoundOf(found?.age ?? 0)
}

export function wraparoundOf(age: number): Finding {
  const name = 'transaction ids'
  const words = `the oldest is ${counted(Math.round(age / 1e6), 'million', 'million')} old of 2,147`
  if (age < OLD_XID) return ok(name, words)
  const advice = 'vacuum freeze, in this database; look for what kept autovacuum from it'
  return (age >= VERY_OLD_XID ? problem : warning)(name, words, advice)
}
