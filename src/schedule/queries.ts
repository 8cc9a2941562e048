import { sql } from 'kysely'
import type { Database } from '../db/pool.ts'
import type { Transaction } from '../db/transaction.ts'
import type { Processable } from '../queue/processing-jobs.ts'

/** Milliseconds until the next message is due, by the database's clock: 0 when one is; undefined without any. */
export async function msUntilDue(db: Database): Promise<number | undefined> {
  const { rows } = await sql<{ ms: number | null }>`/* schedule.next */
    select ceil(extract(epoch from min(next.due_at) - clock_timestamp()) * 1000)::float8 as ms
    from generate_series(0, 9) p
    cross join lateral (
      select due_at from mail.scheduled where priority = p order by due_at limit 1
    ) next
  `.execute(db)
  const ms = rows[0]?.ms ?? undefined
  return ms && Math.max(ms, 0)
}

/**
 * Locks the next messages that are due, urgent first, and passes over those that another process has in hand. The
 * outer limit ends the search: of the less urgent no more is locked than is taken.
 */
export async function lockDue(trx: Transaction, limit: number): Promise<string[]> {
  const { rows } = await sql<{ message_id: string }>`/* schedule.lock_due */
    select due.message_id
    from generate_series(0, 9) p
    cross join lateral (
      select message_id
      from mail.scheduled
      where priority = p and due_at <= now() -- not clock_timestamp(), which no index can be searched for
      order by due_at
      limit ${limit}
      for update skip locked
    ) due
    limit ${limit}
  `.execute(trx)
  return rows.map((row) => row.message_id)
}

/**
 * Takes these off the schedule and gives back the messages that are to be processed now. One whose row somebody holds
 * (it is being canceled or moved) stays: whoever holds it waits for our lock on its moment, so that we must not
 * wait for theirs. A moment without a scheduled message is dropped.
 */
export async function release(trx: Transaction, ids: readonly string[]): Promise<Processable[]> {
  const { rows } = await sql<Processable>`/* schedule.release */
    with free as materialized (
      select id from mail.message where id = any (${ids}::uuid[]) and status = 'scheduled' for update skip locked
    ), released as (
      update mail.message m
      set status = 'accepted'
      from free
      where m.id = free.id and m.id = any (${ids}::uuid[])
      returning m.id, m.stream, m.priority
    ), done as (
      delete from mail.scheduled s
      where s.message_id = any (${ids}::uuid[])
        and (
          s.message_id in (select id from free)
          or not exists (select from mail.message m where m.id = s.message_id and m.status = 'scheduled')
        )
    )
    select id, stream, priority from released
  `.execute(trx)
  return rows
}
