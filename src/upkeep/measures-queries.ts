import { sql } from 'kysely'
import type { Database } from '../db/pool.ts'
import type { Measures } from '../meter.ts'

/** Adds what one process counted to the present ten seconds. */
export async function addMeasures(db: Database, process: string, measures: Measures): Promise<void> {
  const { flows, tallies, times } = measures
  await sql`/* upkeep.add_measures */
    with bucket as materialized (
      select date_bin('10 seconds', clock_timestamp(), 'epoch') as at
    ), flow as (
      insert into mail.throughput as t (bucket_at, process, stage, stream, provider, came_in, went_out)
      select bucket.at, ${process}::uuid, stage, stream, provider, "cameIn", "wentOut"
      from bucket
      cross join json_to_recordset(${JSON.stringify(flows)}::json)
        as count (stage text, stream text, provider text, "cameIn" bigint, "wentOut" bigint)
      on conflict (bucket_at, process, stage, stream, provider)
      do update set came_in = t.came_in + excluded.came_in, went_out = t.went_out + excluded.went_out
    ), tally as (
      insert into mail.tally as t (bucket_at, process, kind, stream, provider, count)
      select bucket.at, ${process}::uuid, kind, stream, provider, count
      from bucket
      cross join json_to_recordset(${JSON.stringify(tallies)}::json)
        as count (kind text, stream text, provider text, count bigint)
      on conflict (bucket_at, kind, stream, provider, process) do update set count = t.count + excluded.count
    )
    insert into mail.tally_time as t (bucket_at, process, kind, stream, provider, bucket, count, seconds)
    select bucket.at, ${process}::uuid, kind, stream, provider, count.bucket, count, seconds
    from bucket
    cross join json_to_recordset(${JSON.stringify(times)}::json)
      as count (kind text, stream text, provider text, bucket smallint, count bigint, seconds double precision)
    on conflict (bucket_at, kind, stream, provider, process, bucket)
    do update set count = t.count + excluded.count, seconds = t.seconds + excluded.seconds
  `.execute(db)
}

export async function countDepth(db: Database): Promise<void> {
  await sql`/* upkeep.count_depth */ select mail.count_depth()`.execute(db)
}

export async function estimateDepth(db: Database): Promise<void> {
  await sql`/* upkeep.estimate_depth */ select mail.estimate_depth()`.execute(db)
}

export async function takeSample(db: Database): Promise<void> {
  await sql`/* upkeep.take_sample */ select mail.take_sample()`.execute(db)
}

/** Asks whether this process leads, and by asking keeps it the leader. */
export async function lead(db: Database, process: string, name: string): Promise<boolean> {
  const { rows } = await sql<{ leads: boolean }>`/* upkeep.lead */
    select mail.lead(${process}::uuid, ${name}) as leads
  `.execute(db)
  return rows[0]?.leads === true
}

export async function stopLeading(db: Database, process: string): Promise<void> {
  await sql`/* upkeep.stop_leading */ select mail.stop_leading(${process}::uuid)`.execute(db)
}
