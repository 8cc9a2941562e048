import { sql } from 'kysely'
import type { Database } from '../db/pool.ts'

/**
 * What the metrics of the whole system are read by: three statements, each flat in cost however much is waiting. What
 * could only be counted is counted up to COUNT_LIMIT, along an index.
 */
const COUNT_LIMIT = 10_000

type Place = { readonly stream: string; readonly provider: string }

export type SystemState = {
  readonly depth: readonly (Place & {
    readonly stage: string
    readonly ready: number
    readonly deferred: number
    readonly in_flight: number
    readonly oldest_age_s: number
    readonly growth_per_s: number | null
  })[]
  readonly depth_age_s: number | null
  readonly flow: readonly (Place & {
    readonly error_rate: number | null
    readonly retry_rate: number | null
  })[]
  readonly buckets: readonly {
    readonly provider: string
    readonly bucket: string
    readonly tokens: number
    readonly capacity: number
    readonly used_ratio: number
  }[]
  readonly providers: readonly {
    readonly provider: string
    readonly breaker: 'closed' | 'half_open' | 'open'
    readonly paused: boolean
    readonly blocked: boolean
    readonly rationed: boolean
    readonly unusable: boolean
  }[]
  readonly streams: readonly {
    readonly stream: string
    readonly paused: boolean
    readonly outside_window: boolean
    readonly send_within_s: number
  }[]
  readonly scale: { readonly workers: number; readonly current_workers: number }
  readonly alerts: readonly { readonly rule: string; readonly firing: number }[]
  readonly dead_letters: number
  readonly losses: { readonly crashes: number; readonly at_least: number; readonly at_most: number }
  readonly held: boolean
  readonly workers: number
  readonly webhooks: {
    readonly waiting: number
    readonly endpoints: readonly {
      readonly endpoint: string
      readonly failures: number
      readonly disabled: boolean
    }[]
  }
  readonly feedback: {
    readonly waiting: number
    readonly parked: number
    readonly unmatched_waiting: number
    readonly unmatched_given_up: number
  }
}

/**
 * Sluice's own state. What waits is as of the leader's latest look (which leaves no row where nothing does); when that is
 * more than 30 s old, it is left out.
 */
export const SYSTEM_STATE = sql<SystemState>`/* metrics.system */
  with measured as materialized (
    select extract(epoch from clock_timestamp() - max(at))::float8 as age_s
    from (
      select max(measured_at) as at from mail.depth having count(*) > 0
      union all
      select renewed_at from mail.leader where not exists (select from mail.depth)
    ) look
  ), known as (
    select stage, name as stream, '' as provider
    from mail.stream cross join unnest(array['intake', 'scheduled', 'processing']) as stage
    union all
    select 'dispatch', s.name, hop from mail.stream s cross join unnest(s.route) as hop
  ), flow as materialized (
    select * from mail.flow
  ), used as (
    select
      provider,
      sum(sent_per_s + deferred_per_s + unknown_per_s + dead_per_s) as messages_per_s,
      sum(requests_per_s) as requests_per_s
    from flow
    where provider <> ''
    group by provider
  )
  select
    (
      select coalesce(json_agg(l), '[]')
      from (
        select
          stage, stream, provider,
          coalesce(d.ready, 0) as ready, coalesce(d.deferred, 0) as deferred, coalesce(d.in_flight, 0) as in_flight,
          greatest(0, coalesce(extract(epoch from clock_timestamp() - d.oldest_at), 0)) as oldest_age_s,
          case when d.stage is null then 0 else g.growth_per_s end as growth_per_s
        from known
        full join mail.depth d using (stage, stream, provider)
        left join mail.growth g using (stage, stream, provider)
        where (select age_s from measured) <= 30
      ) l
    ) as depth,
    (select age_s from measured) as depth_age_s,
    (
      select coalesce(json_agg(l), '[]')
      from (select stream, provider, error_rate, retry_rate from flow where provider <> '') l
    ) as flow,
    (
      select coalesce(json_agg(l), '[]')
      from (
        select
          b.provider, b.name as bucket, b.available as tokens, b.capacity,
          coalesce(case b.counts when 'requests' then u.requests_per_s else u.messages_per_s end, 0)
            / b.rate_per_s as used_ratio
        from mail.bucket_level b
        left join used u using (provider)
      ) l
    ) as buckets,
    (
      select coalesce(json_agg(l), '[]')
      from (
        select
          p.name as provider,
          coalesce(s.breaker, 'closed') as breaker,
          p.paused_at is not null as paused,
          coalesce(s.blocked_until > clock_timestamp(), false) as blocked,
          coalesce(s.remaining < p.reserve and s.remaining_until > clock_timestamp(), false) as rationed,
          s.unusable_reason is not null as unusable
        from mail.provider p
        left join mail.provider_state s on s.provider = p.name
      ) l
    ) as providers,
    (
      select coalesce(json_agg(l), '[]')
      from (
        select
          name as stream,
          paused_at is not null as paused,
          not mail.window_is_open(name, now()) as outside_window,
          -- As mail.scale_streams has it.
          coalesce(send_within_s, case when priority <= 3 then 5 else 30 end) as send_within_s
        from mail.stream
      ) l
    ) as streams,
    (
      select json_build_object('workers', workers, 'current_workers', current_workers) from mail.scale()
    ) as scale,
    (
      select coalesce(json_agg(l), '[]')
      from (
        select r.name as rule, count(a.rule) as firing
        from mail.alert_rule r
        left join mail.alert a on a.rule = r.name and a.resolved_at is null
        group by r.name
      ) l
    ) as alerts,
    (
      select case
        when count(*) <= ${COUNT_LIMIT} then count(*)
        else greatest(count(*), pg_stat_get_live_tuples('mail.dead_letter'::regclass))
      end::float8
      from (select from mail.dead_letter order by message_id limit ${COUNT_LIMIT} + 1) l
    ) as dead_letters,
    (
      select json_build_object(
        'crashes', count(*), 'at_least', coalesce(sum(at_least), 0), 'at_most', coalesce(sum(at_most), 0)
      )
      from mail.intake_loss
    ) as losses,
    mail.why_held() is not null as held,
    (
      select count(*)::float8 from mail.worker where seen_at > clock_timestamp() - interval '30 seconds'
    ) as workers,
    json_build_object(
      -- All endpoints share this table, and a job leaves it when it ends.
      'waiting', (select count(*) from (select from pgboss.job_common where name like 'webhook.%' limit ${COUNT_LIMIT}) l),
      'endpoints', (
        select coalesce(json_agg(l), '[]')
        from (select id as endpoint, failures, status = 'disabled' as disabled from mail.webhook_endpoint) l
      )
    ) as webhooks,
    (
      select json_build_object(
        'waiting', count(*) filter (where state = 'waiting'),
        'parked', count(*) filter (where state = 'parked'),
        'unmatched_waiting', (
          select count(*)
          from (
            select from mail.feedback_unmatched where next_try_at is not null order by next_try_at limit ${COUNT_LIMIT}
          ) u
        ),
        'unmatched_given_up', (
          select count(*)
          from (select from mail.feedback_unmatched where next_try_at is null order by id limit ${COUNT_LIMIT}) u
        )
      )
      from (select state from mail.feedback where state <> 'applied' order by endpoint, id limit ${COUNT_LIMIT}) f
    ) as feedback
`

/** Tables that every message passes, with their partitions. */
const HOT_TABLES = [
  'mail.intake',
  'mail.outbox',
  'mail.message',
  'mail.message_content',
  'mail.message_prepared',
  'mail.event',
  'mail.finder',
  'mail.scheduled',
  'mail.idempotency',
  'pgboss.job',
]

const hotTables = sql`
  select name, member.oid
  from unnest(${HOT_TABLES}::text[]) as name
  cross join lateral (
    select to_regclass(name)::oid as oid
    union all
    select inhrelid from pg_inherits where inhparent = to_regclass(name)
  ) member`

export type PostgresState = {
  readonly oldest_transaction_age_s: number
  /** The oldest transaction that vacuum must respect, unless it is the present one. */
  readonly oldest_xmin: string | null
  readonly xmin_ages: Readonly<Record<'session' | 'prepared_transaction' | 'replication_slot', number>>
  readonly connections: number
  readonly max_connections: number
  readonly tables: readonly {
    readonly name: string
    readonly live_rows: number
    readonly dead_rows: number
  }[]
}

/** What keeps vacuum from its work, and what that has left. Autovacuum, which has no user, holds nothing back. */
export const POSTGRES_STATE = sql<PostgresState>`/* metrics.postgres */
  with session as materialized (
    select datname, xact_start, backend_xid, backend_xmin
    from pg_stat_activity
    where usesysid is not null and (datname is null or datname = current_database()) and pid <> pg_backend_pid()
  ), prepared as materialized (
    select prepared as since, transaction from pg_prepared_xacts where database = current_database()
  ), held as materialized (
    select 'session' as holder, backend_xid as xmin from session
    union all
    select 'session', backend_xmin from session
    union all
    select 'prepared_transaction', transaction from prepared
    union all
    select 'replication_slot', xmin from pg_replication_slots
  )
  select
    -- Of other users' sessions only members of pg_read_all_stats see since when; what they hold, all do.
    greatest(
      0,
      (select extract(epoch from clock_timestamp() - min(xact_start)) from session),
      (select extract(epoch from clock_timestamp() - min(since)) from prepared)
    )::float8 as oldest_transaction_age_s,
    (select xmin::text from held where age(xmin) > 0 order by age(xmin) desc limit 1) as oldest_xmin,
    (
      select json_object_agg(holder, coalesce(age, 0))
      from unnest(array['session', 'prepared_transaction', 'replication_slot']) as holder
      left join (select holder, max(age(xmin)) as age from held group by holder) h using (holder)
    ) as xmin_ages,
    (select sum(numbackends) from pg_stat_database)::float8 as connections,
    current_setting('max_connections')::float8 as max_connections,
    (
      select json_agg(l)
      from (
        select
          name,
          coalesce(sum(pg_stat_get_live_tuples(oid)), 0) as live_rows,
          coalesce(sum(pg_stat_get_dead_tuples(oid)), 0) as dead_rows
        from (${hotTables}) t
        group by name
      ) l
    ) as tables
`

export type Sizes = {
  readonly database_bytes: number
  readonly tables: readonly { readonly name: string; readonly bytes: number }[]
}

/** Looks at every file of the database: seldom, and apart from the others, since it waits for locks on tables. */
export const SIZES = sql<Sizes>`/* metrics.sizes */
  select
    pg_database_size(current_database())::float8 as database_bytes,
    (
      select json_agg(l)
      from (
        select name, coalesce(sum(pg_total_relation_size(oid)), 0) as bytes from (${hotTables}) t group by name
      ) l
    ) as tables
`

/** The one row of a statement above. */
export async function readOne<T>(db: Database, statement: ReturnType<typeof sql<T>>): Promise<T> {
  const { rows } = await statement.execute(db)
  const [row] = rows
  if (row === undefined) throw new Error('a reading for the metrics returned no row')
  return row
}
