import { sql } from 'kysely'
import type { Database } from '../../db/pool.ts'

/** What waits at one place: a stage's queue of a stream, and in dispatch of a provider. */
export type Depth = {
  readonly stage: 'intake' | 'scheduled' | 'processing' | 'dispatch'
  readonly stream: string
  readonly provider: string
  readonly ready: number
  readonly deferred: number
  readonly in_flight: number
  readonly oldest_age_s: number | null
  readonly in_per_s: number
  readonly out_per_s: number
  /** Null before there is a minute to look back on. */
  readonly growth_per_s: number | null
}

export type Tally = {
  readonly kind: string
  readonly stream: string
  readonly provider: string
  readonly per_s: number
}

/** Of one stream, one provider, or (both null) all. */
export type Times = {
  readonly kind: 'time_to_send' | 'provider_latency'
  readonly stream: string | null
  readonly provider: string | null
  readonly p50_s: number
  readonly p95_s: number
}

/** `half_open`: probes find out whether it is back. `nearly_used_up`: only urgent mail goes. */
export type ProviderState =
  | 'unusable'
  | 'paused'
  | 'told_to_wait'
  | 'open'
  | 'half_open'
  | 'nearly_used_up'
  | 'well'

export type ProviderLine = {
  readonly name: string
  readonly transport: string
  readonly state: ProviderState
  /** A sentence of the database: why, in the words of the provider too. */
  readonly status: string
  /** `infinity` while it is paused. */
  readonly until: string | null
}

export type StreamLine = {
  readonly name: string
  readonly priority: number
  readonly route: readonly string[]
  readonly paused_at: string | null
  readonly paused_by: string | null
  /** When its send window opens; null: it may send now. */
  readonly opens_at: string | null
}

export type AlertLine = {
  readonly id: string
  readonly severity: 'warning' | 'critical'
  readonly provider: string | null
  readonly since: string
  readonly what: string
  readonly acknowledged_by: string | null
}

export type Snapshot = {
  /** ISO 8601. */
  readonly at: string
  /** Why nothing at all is sent; null: mail is sent. */
  readonly held: string | null
  /** How long ago the process that measures said that it lives; null when there is none. */
  readonly leader_seen_s: number | null
  /** Up to `MAX_ALERTS`, the critical first. */
  readonly alerts: readonly AlertLine[]
  readonly depths: readonly Depth[]
  readonly tallies: readonly Tally[]
  readonly times: readonly Times[]
  readonly providers: readonly ProviderLine[]
  readonly streams: readonly StreamLine[]
  readonly workers: { readonly alive: number; readonly gone: number }
  /** Counted up to `MAX_DEAD_LETTERS`. */
  readonly dead_letters: number
}

/** Past it the overview says “or more”: what a look costs must not depend on how much has failed. */
export const MAX_DEAD_LETTERS = 10_000
export const MAX_ALERTS = 20
/** As mail.why has it. */
export const WORKER_IS_GONE_AFTER = '30 seconds'

/**
 * Everything the overview shows, in one statement and one snapshot: what the leader and the meters wrote, which is
 * small however much is waiting. Rates and times are those of the last full minute, as in mail.flow.
 */
export async function readSnapshot(db: Database): Promise<Snapshot> {
  const { rows } = await sql<Snapshot>`/* dashboard.live */
    with minute as materialized (
      select date_bin('10 seconds', clock_timestamp(), 'epoch') as until
    ), passed as (
      select stage, stream, provider, sum(came_in) / 60.0 as in_per_s, sum(went_out) / 60.0 as out_per_s
      from mail.throughput, minute
      where bucket_at >= minute.until - interval '1 minute' and bucket_at < minute.until
      group by stage, stream, provider
    ), place as (
      select
        stage, stream, provider, coalesce(d.ready, 0) as ready, coalesce(d.deferred, 0) as deferred,
        coalesce(d.in_flight, 0) as in_flight,
        greatest(0, extract(epoch from clock_timestamp() - d.oldest_at)) as oldest_age_s,
        round(coalesce(p.in_per_s, 0), 2) as in_per_s, round(coalesce(p.out_per_s, 0), 2) as out_per_s, g.growth_per_s
      from mail.depth d
      full join passed p using (stage, stream, provider)
      left join mail.growth g using (stage, stream, provider)
    ), happened as (
      select kind, stream, provider, round(sum(count) / 60.0, 3) as per_s
      from mail.tally, minute
      where bucket_at >= minute.until - interval '1 minute' and bucket_at < minute.until
      group by kind, stream, provider
    ), took as (
      select kind, stream, provider, array_agg(bucket) as buckets, array_agg(messages) as messages
      from (
        select kind, stream, provider, bucket, sum(count) as messages
        from mail.tally_time, minute
        where bucket_at >= minute.until - interval '1 minute' and bucket_at < minute.until
        group by grouping sets ((kind, bucket), (kind, stream, bucket), (kind, provider, bucket))
      ) b
      group by kind, stream, provider
    ), line as (
      select
        p.name, p.transport, s.status, s.until,
        case
          when t.unusable_reason is not null then 'unusable'
          when p.paused_at is not null or mail.why_held() is not null then 'paused'
          when t.blocked_until > clock_timestamp() then 'told_to_wait'
          when t.breaker = 'open' and t.breaker_until > clock_timestamp() then 'open'
          when t.breaker <> 'closed' then 'half_open'
          when s.until is not null then 'nearly_used_up'
          else 'well'
        end as state
      from mail.provider p
      join mail.provider_status s on s.provider = p.name
      left join mail.provider_state t on t.provider = p.name
    )
    select
      to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as at,
      mail.why_held() as held,
      (select extract(epoch from clock_timestamp() - renewed_at)::double precision from mail.leader) as leader_seen_s,
      (
        select coalesce(json_agg(a), '[]')
        from (
          select id, severity, provider, since, what, acknowledged_by
          from mail.alert
          where resolved_at is null
          order by severity, fired_at
          limit ${MAX_ALERTS}
        ) a
      ) as alerts,
      (select coalesce(json_agg(place order by stage, stream, provider), '[]') from place) as depths,
      (select coalesce(json_agg(happened), '[]') from happened) as tallies,
      (
        select coalesce(json_agg(json_build_object(
          'kind', kind, 'stream', stream, 'provider', provider,
          'p50_s', mail.time_at(0.5, buckets, messages), 'p95_s', mail.time_at(0.95, buckets, messages)
        )), '[]')
        from took
      ) as times,
      (select coalesce(json_agg(line order by name), '[]') from line) as providers,
      (
        select coalesce(json_agg(s order by priority, name), '[]')
        from (
          select name, priority, route, paused_at, paused_by, mail.window_opens(name, clock_timestamp()) as opens_at
          from mail.stream
        ) s
      ) as streams,
      (
        select json_build_object('alive', count(*) filter (where is_alive), 'gone', count(*) filter (where not is_alive))
        from (select seen_at > now() - ${WORKER_IS_GONE_AFTER}::interval as is_alive from mail.worker) w
      ) as workers,
      (select count(*)::integer from (select from mail.dead_letter limit ${MAX_DEAD_LETTERS}) d) as dead_letters
  `.execute(db)
  const snapshot = rows[0]
  if (snapshot === undefined) throw new Error('a select without from has one row')
  return snapshot
}
