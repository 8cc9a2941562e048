import type { Queryable } from './queryable.ts'

/** A table with the daily partitions of its parent added up: a run at midnight has two of them. */
export type TableSize = {
  readonly name: string
  readonly tableBytes: number
  readonly indexBytes: number
  /** As the statistics have them: a second late, and an estimate after a vacuum. */
  readonly live: number
  readonly dead: number
}

/** Every table of Sluice and of pg-boss that holds anything, the largest first. */
export async function tableSizes({ query }: Queryable): Promise<TableSize[]> {
  const rows = await query<{ name: string; table: string; index: string; live: string; dead: string }>(
    `select
       regexp_replace(coalesce(q.queue, s.schemaname || '.' || s.relname), '_[0-9]{8}$', '') as name,
       sum(pg_table_size(s.relid)) as table, sum(pg_indexes_size(s.relid)) as index,
       sum(s.n_live_tup) as live, sum(s.n_dead_tup) as dead
     from pg_stat_user_tables s
     left join (
       select 'queue ' || name as queue, table_name from pgboss.queue where partition
     ) q on s.schemaname = 'pgboss' and q.table_name = s.relname
     where s.schemaname in ('mail', 'pgboss')
     group by 1
     having sum(pg_total_relation_size(s.relid)) > 0
     order by sum(pg_total_relation_size(s.relid)) desc`,
  )
  return rows.map(({ name, table, index, live, dead }) => ({
    name,
    tableBytes: Number(table),
    indexBytes: Number(index),
    live: Number(live),
    dead: Number(dead),
  }))
}
