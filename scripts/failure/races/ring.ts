import { migrate } from '../../../src/db/migrate.ts'
import { openPool } from '../../../src/db/pool.ts'
import { inTransaction } from '../../../src/db/transaction.ts'
import { claimMessages } from '../../../src/dispatch/queries.ts'
import { createLog } from '../../../src/log.ts'
import { within } from '../../../src/queue/boss.ts'
import { dispatchQueue } from '../../../src/queue/queues.ts'
import { openSchedule } from '../../../test/schedule/schedule-stage.ts'
import type { TestDatabase } from '../../../test/support/database.ts'
import type { Scene } from '../run.ts'
import { startPostgres } from '../sluice.ts'
import { interleave, openRacer } from './interleave.ts'
import type { Pair, Start } from './pairs.ts'
import type { Players, Subject } from './sides.ts'

const DISPATCH = dispatchQueue('default', 'transactional')

export type Ring = Awaited<ReturnType<typeof openRing>>

/** A database with a message at a time, two sessions that go for it, and one that looks on. */
export async function openRing(scene: Scene) {
  // No crash of Postgres is part of it.
  const server = await startPostgres(scene, { fsync: 'off' })
  await migrate({ url: server.url, log: createLog('silent') })
  const closers: (() => Promise<unknown>)[] = []
  scene.after(async () => {
    for (const close of closers.reverse()) await close()
  })
  const log = createLog('silent')
  const watch = openPool({ url: server.url, maxConnections: 2, role: undefined, log })
  const database: TestDatabase = {
    url: server.url,
    query: async (text, values) => (await watch.pool.query(text, values)).rows,
    beforeDrop: (close) => closers.push(close),
  }
  const schedule = await openSchedule(database)
  await database.query("insert into mail.provider (name, transport) values ('other', 'inbox')")
  const [a, b] = [await openRacer(server.url), await openRacer(server.url)]
  closers.push(watch.close, a.close, b.close)
  let worker = 0
  let made = 0
  const sidesOf = (pair: Pair, subject: Subject) => {
    const players: Players = { boss: schedule.boss, subject, worker }
    return [pair.A(players), pair.B(players)] as const
  }
  return {
    sidesOf,
    deadlocks: async () => {
      const [row] = await database.query<{ count: number }>(
        'select deadlocks::integer as count from pg_stat_database where datname = current_database()',
      )
      return row?.count ?? 0
    },
    /** What both answered, where the message stands, and whether anything is stuck; in words. */
    fight: async (pair: Pair, order: string): Promise<string> => {
      made += 1
      await clear(database)
      worker = await register(database)
      const subject = await prepare({ database, schedule, worker }, pair.start, `u${made}@example.net`)
      const [sideA, sideB] = sidesOf(pair, subject)
      const { A, B } = await interleave(watch.db, order, { A: [a, sideA], B: [b, sideB] })
      return `${A} / ${B} → ${await standingOf(database, subject.id)}`
    },
  }
}

async function clear({ query }: TestDatabase): Promise<void> {
  for (const table of [
    'pgboss.job',
    'mail.scheduled',
    'mail.claim',
    'mail.worker',
    'mail.outbox',
    'mail.suppression',
  ]) {
    await query(`delete from ${table}`)
  }
  await query("update mail.stream set route = '{default}', paused_at = null where name = 'transactional'")
  // Of earlier races: a dead letter that is retried must not meet another's.
  await query('delete from mail.dead_letter')
}

async function register({ query }: TestDatabase): Promise<number> {
  const [row] = await query<{ number: number }>(
    "insert into mail.worker (name) values ('ring:1') returning number",
  )
  return row?.number ?? 0
}

type Prompt = {
  readonly database: TestDatabase
  readonly schedule: Awaited<ReturnType<typeof openSchedule>>
  readonly worker: number
}

/** A message where the race begins, with the jobs and rows that belong there. */
async function prepare(
  { database, schedule, worker }: Prompt,
  start: Start,
  address: string,
): Promise<Subject> {
  const { query } = database
  if (start === 'scheduled') {
    const id = await schedule.accept({ to: [address], scheduled_at: 'in 1 hour' })
    await schedule.makeDue(id)
    return { id, address }
  }
  const id = await schedule.accept({ to: [address] })
  if (start === 'accepted') return { id, address }
  await query("delete from pgboss.job where data -> 'ids' ? $1", [id])
  await query(
    "update mail.message set status = 'queued', provider = 'default', queued_at = now() where id = $1",
    [id],
  )
  if (start === 'dead') {
    await query("update mail.message set status = 'dead', attempts = 1 where id = $1", [id])
    await query(
      `insert into mail.dead_letter (message_id, stage, code, reason, attempts, stream, source)
       values ($1, 'dispatch', 'smtp_refused', 'no', 1, 'transactional', 'test')`,
      [id],
    )
    return { id, address }
  }
  if (start === 'unknown') {
    await query(
      "update mail.message set status = 'unknown', attempts = 1, claimed_at = now() where id = $1",
      [id],
    )
    return { id, address }
  }
  await schedule.boss.insert(DISPATCH, [{ id, priority: 5 }])
  if (start === 'queued') return { id, address }
  const [claim] = await inTransaction(schedule.db, async (trx) => {
    await schedule.boss.fetch(DISPATCH, { batchSize: 1, ...within(trx) })
    return claimMessages(trx, [id], worker, 'default')
  })
  if (claim === undefined) throw new Error('the message could not be claimed before the race')
  return { id, address, claim }
}

/** Where the message stands, and whether what has to move it on is there, once. */
async function standingOf({ query }: TestDatabase, id: string): Promise<string> {
  const [row] = await query<{ status: string; waiting: number; active: number; moments: number }>(
    `select m.status,
       (select count(*)::integer from pgboss.job j where (j.id = m.id or j.data -> 'ids' ? m.id::text) and j.state < 'active') as waiting,
       (select count(*)::integer from pgboss.job j where j.id = m.id and j.state = 'active') as active,
       (select count(*)::integer from mail.scheduled s where s.message_id = m.id) as moments
     from mail.message m where m.id = $1`,
    [id],
  )
  if (row === undefined) return 'gone'
  const { status, waiting, active, moments } = row
  const needs: Readonly<Record<string, readonly [number, number, number]>> = {
    accepted: [1, 0, 0],
    queued: [1, 0, 0],
    deferred: [1, 0, 0],
    sending: [0, 1, 0],
  }
  const need = needs[status]
  // A batch that holds a message which is no longer accepted passes it over.
  if (status === 'scheduled')
    return moments === 1 && active === 0 ? status : `${status}, STUCK without a moment`
  const isWell =
    need === undefined ? active === 0 && moments === 0 : `${need}` === `${[waiting, active, moments]}`
  return isWell
    ? status
    : `${status}, STUCK with ${waiting} jobs waiting, ${active} active, ${moments} moments`
}
