import { sql } from 'kysely'
import type { Database } from '../../db/pool.ts'

export type Quota = {
  readonly provider: string
  readonly name: string
  readonly counts: 'messages' | 'requests'
  readonly quota: number
  readonly window_s: number
  readonly utilization: number
  readonly rate_per_s: number
  readonly capacity: number
  readonly available: number
  readonly kept_for_urgent: number
  /** Went out since `used_since`: a window ago, or (a shorter one) a minute. */
  readonly used: number
  readonly used_s: number
  /** Counted by days: since midnight UTC of the day in which the window began. */
  readonly is_by_day: boolean
}

/** What is counted by ten seconds is kept for three hours; longer windows are counted by days. */
const LONGEST_BY_SECONDS_S = 3_600

/** The buckets of one provider, or of all. */
export async function readQuotas(db: Database, provider?: string): Promise<Quota[]> {
  const { rows } = await sql<Quota>`/* dashboard.quotas */
    select
      b.provider, b.name, b.counts, b.quota, b.window_s, b.utilization,
      l.rate_per_s, l.capacity, l.available, l.kept_for_urgent,
      stretch.seconds as used_s,
      stretch.is_by_day,
      case when stretch.is_by_day then by_day.sent else by_seconds.count end::double precision as used
    from mail.bucket b
    join mail.bucket_level l using (provider, name)
    cross join lateral (
      select greatest(60, b.window_s) as seconds, b.window_s > ${LONGEST_BY_SECONDS_S} as is_by_day
    ) stretch
    cross join lateral (
      select coalesce(sum(t.count), 0) as count
      from mail.tally t
      where not stretch.is_by_day and t.provider = b.provider
        and t.bucket_at >= date_bin('10 seconds', clock_timestamp(), 'epoch') - make_interval(secs => stretch.seconds)
        and t.bucket_at < date_bin('10 seconds', clock_timestamp(), 'epoch')
        and t.kind = any (
          case b.counts when 'requests' then array['request'] else array['sent', 'deferred', 'unknown', 'dead'] end
        )
    ) by_seconds
    cross join lateral (
      select coalesce(sum(s.sent), 0) as sent
      from mail.stat s
      where stretch.is_by_day and s.provider = b.provider and s.tag = ''
        and s.day > (now() at time zone 'UTC')::date - ceil(stretch.seconds / 86400.0)::integer
    ) by_day
    where ${provider ?? null}::text is null or b.provider = ${provider ?? null}
    order by b.provider, b.window_s, b.name
  `.execute(db)
  return rows
}

export type ProviderSettings = {
  readonly name: string
  readonly transport: string
  readonly credentials_env: string | null
  readonly base_url: string | null
  readonly reserve: number
  readonly breaker_share: number
  readonly breaker_volume: number
  readonly breaker_run: number
  readonly breaker_cooldown_s: number
  readonly breaker_cooldown_cap_s: number
  readonly paused_at: Date | null
  readonly paused_by: string | null
  readonly breaker: string
  readonly requests_60s: number
  readonly faults_60s: number
  /** What the provider says remains of its own limit. */
  readonly remaining: number | null
}

/** Without what may be secret: the options, and credentials in a base URL. */
export async function readProviderSettings(db: Database): Promise<ProviderSettings[]> {
  const { rows } = await sql<ProviderSettings>`/* dashboard.providers */
    select
      p.name, p.transport, p.credentials_env, regexp_replace(p.base_url, '//[^/]*@', '//') as base_url, p.reserve,
      p.breaker_share, p.breaker_volume, p.breaker_run, p.breaker_cooldown_s, p.breaker_cooldown_cap_s,
      p.paused_at, p.paused_by, s.breaker, s.requests_60s::integer, s.faults_60s::integer, s.remaining
    from mail.provider p
    join mail.provider_status s on s.provider = p.name
    order by p.name
  `.execute(db)
  return rows
}

export type ProviderEvent = { readonly at: Date; readonly type: string; readonly reason: string }

export async function readProviderEvents(
  db: Database,
  provider: string,
  limit: number,
): Promise<ProviderEvent[]> {
  const { rows } = await sql<ProviderEvent>`/* dashboard.provider_events */
    select at, type, reason from mail.provider_event where provider = ${provider} order by id desc limit ${limit}
  `.execute(db)
  return rows
}
