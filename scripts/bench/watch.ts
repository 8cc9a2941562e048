import type { Client } from 'pg'

/** What the database said of itself at one moment. */
export type Sample = {
  readonly atMs: number
  /** Accepted and not handed to dispatch yet: the doors and processing, by mail.depth. */
  readonly lag: number
  /** Handed to dispatch and not sent yet. */
  readonly waitsForDispatch: number
  readonly pressure: 'soft' | 'hard' | null
  readonly cause: string | null
  readonly intakeBytes: number
}

/** From mail.depth, which any number of readers may ask at any time: the leader keeps it. */
export async function takeSample(client: Client, atMs: number): Promise<Sample> {
  const { rows } = await client.query<Omit<Sample, 'atMs'>>(`
    /* bench.sample */
    select
      coalesce(sum(d.ready + d.in_flight) filter (where d.stage in ('intake', 'processing')), 0)::double precision as "lag",
      coalesce(sum(d.ready + d.in_flight) filter (where d.stage = 'dispatch'), 0)::double precision as "waitsForDispatch",
      (select pressure from mail.intake_pressure) as pressure,
      (select cause from mail.intake_pressure) as cause,
      (pg_total_relation_size('mail.intake') + pg_total_relation_size('mail.outbox'))::double precision as "intakeBytes"
    from mail.depth d`)
  const [row] = rows
  if (row === undefined) throw new Error('an aggregate has one row')
  return { atMs, ...row }
}

export type TableSize = {
  readonly name: string
  readonly mb: number
  readonly rows: number
  readonly deadRows: number
}

/** The largest tables with their indexes, partitions and queues added up under one name. */
export async function largestTables(client: Client, count: number): Promise<TableSize[]> {
  const { rows } = await client.query<TableSize>(
    `/* bench.largest_tables */
    select
      s.name,
      sum(pg_total_relation_size(t.relid))::double precision / 1e6 as mb,
      sum(t.n_live_tup)::double precision as rows,
      sum(t.n_dead_tup)::double precision as "deadRows"
    from pg_stat_user_tables t
    left join pgboss.queue q on q.table_name = t.relname and t.schemaname = 'pgboss'
    left join pg_inherits i on i.inhrelid = t.relid
    cross join lateral (
      select coalesce('jobs of ' || q.name, i.inhparent::regclass::text, t.schemaname || '.' || t.relname) as name
    ) s
    group by s.name
    order by mb desc
    limit $1`,
    [count],
  )
  return rows
}

export async function walPosition(client: Client): Promise<bigint> {
  const { rows } = await client.query<{ position: string }>(
    "select pg_current_wal_insert_lsn() - '0/0'::pg_lsn as position",
  )
  return BigInt(rows[0]?.position ?? 0)
}
