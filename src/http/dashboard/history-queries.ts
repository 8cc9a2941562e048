import { sql } from 'kysely'
import type { Database } from '../../db/pool.ts'

/** How it went, ten seconds a point. */
export type Point = {
  /** Seconds since the epoch: the beginning of its ten seconds. */
  readonly at: number
  /** Messages that could go on, per stage, and in dispatch those put off. */
  readonly doors: number
  readonly processing: number
  readonly dispatch: number
  readonly deferred: number
  readonly accepted_per_s: number
  readonly sent_per_s: number
  readonly dead_per_s: number
  /** Null when nothing was sent. */
  readonly p50_s: number | null
  readonly p95_s: number | null
}

export const STEP_S = 10

/** The last `points` whole ten seconds, the oldest first. Where nothing was written, nothing waited and nothing happened. */
export async function readHistory(db: Database, points: number): Promise<Point[]> {
  const { rows } = await sql<Point>`/* dashboard.history */
    with stretch as materialized (
      select
        date_bin('10 seconds', clock_timestamp(), 'epoch') as until,
        date_bin('10 seconds', clock_timestamp(), 'epoch') - ${points}::integer * interval '10 seconds' as since
    ), waiting as (
      select
        at,
        sum(ready) filter (where stage = 'intake') as doors,
        sum(ready) filter (where stage = 'processing') as processing,
        sum(ready) filter (where stage = 'dispatch') as dispatch,
        sum(deferred) filter (where stage = 'dispatch') as deferred
      from mail.sample, stretch
      where at >= stretch.since and at < stretch.until
      group by at
    ), happened as (
      select
        bucket_at as at,
        sum(count) filter (where kind = 'accepted') as accepted,
        sum(count) filter (where kind = 'sent') as sent,
        sum(count) filter (where kind = 'dead') as dead
      from mail.tally, stretch
      where bucket_at >= stretch.since and bucket_at < stretch.until and kind in ('accepted', 'sent', 'dead')
      group by bucket_at
    ), took as (
      select at, array_agg(bucket) as buckets, array_agg(messages) as messages
      from (
        select bucket_at as at, bucket, sum(count) as messages
        from mail.tally_time, stretch
        where bucket_at >= stretch.since and bucket_at < stretch.until and kind = 'time_to_send'
        group by bucket_at, bucket
      ) b
      group by at
    )
    select
      extract(epoch from at)::integer as at,
      coalesce(doors, 0)::double precision as doors,
      coalesce(processing, 0)::double precision as processing,
      coalesce(dispatch, 0)::double precision as dispatch,
      coalesce(deferred, 0)::double precision as deferred,
      coalesce(accepted / 10, 0)::double precision as accepted_per_s,
      coalesce(sent / 10, 0)::double precision as sent_per_s,
      coalesce(dead / 10, 0)::double precision as dead_per_s,
      mail.time_at(0.5, buckets, messages) as p50_s,
      mail.time_at(0.95, buckets, messages) as p95_s
    from stretch
    cross join generate_series(stretch.since, stretch.until - interval '10 seconds', interval '10 seconds') at
    left join waiting using (at)
    left join happened using (at)
    left join took using (at)
    order by at
  `.execute(db)
  return rows
}
