import { sql } from 'kysely'
import type { Database } from '../../db/pool.ts'
import { WORKER_IS_GONE_AFTER } from './live-queries.ts'

export type WorkerRow = {
  readonly number: number
  readonly name: string
  readonly started_at: Date
  readonly seen_at: Date
  readonly is_alive: boolean
  /** Messages it is handing to providers. */
  readonly sending: number
}

export type Processes = {
  /** By the clock that wrote the other times. */
  readonly now: Date
  readonly workers: readonly WorkerRow[]
  readonly leader: { readonly name: string; readonly since: Date; readonly renewed_at: Date } | null
}

export async function readProcesses(db: Database): Promise<Processes> {
  const { rows: workers } = await sql<WorkerRow>`/* dashboard.workers */
    select
      w.number, w.name, w.started_at, w.seen_at, w.seen_at > now() - ${WORKER_IS_GONE_AFTER}::interval as is_alive,
      coalesce(s.count, 0)::integer as sending
    from mail.worker w
    left join (
      select m.worker, count(*) as count
      from pgboss.job j
      join mail.message m on m.id = j.id
      where j.name = any (array(select name from pgboss.queue where name like 'dispatch.%')) and j.state = 'active'
      group by m.worker
    ) s on s.worker = w.number
    order by w.number
  `.execute(db)
  const { rows: leaders } = await sql<NonNullable<Processes['leader']>>`/* dashboard.leader */
    select name, since, renewed_at from mail.leader
  `.execute(db)
  const { rows: clock } = await sql<{
    now: Date
  }>`/* dashboard.clock */ select clock_timestamp() as now`.execute(db)
  return { now: clock[0]?.now ?? new Date(), workers, leader: leaders[0] ?? null }
}
