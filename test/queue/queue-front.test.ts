import assert from 'node:assert/strict'
import { test } from 'node:test'
import { sql } from 'kysely'
import { Client } from 'pg'
import { inTransaction, type Transaction } from '../../src/db/transaction.ts'
import { fetchJobs } from '../../src/dispatch/job-queries.ts'
import { ensureQueues } from '../../src/queue/boss.ts'
import { type Look, QueueFront, WHOLE_LOOK } from '../../src/queue/queue-front.ts'
import { createTestDatabase } from '../support/database.ts'
import { openTestPool } from '../support/feedback.ts'
import { addProvider } from '../support/pacing.ts'

const QUEUE = 'dispatch.default.transactional'
const from = (look: Look) => look.from.map((position) => position ?? 'start')

test('a look begins before what the latest one found, by the margin, and only of that priority', () => {
  let now = 0
  const front = new QueueFront(100, () => now)
  front.end(front.begin(), 5, [
    { priority: 6, position: 1_000 },
    { priority: 6, position: 1_200 },
  ])
  assert.deepEqual(from(front.begin()), [...new Array(6).fill('start'), 900, ...new Array(3).fill('start')])
  now = 49
  assert.equal(front.begin().isWhole, false)
  now = 50
  assert.equal(front.begin().isWhole, true)
})

test('looks at everything take a tenth of the time, and are never more than five seconds apart', () => {
  let now = 0
  const front = new QueueFront(0, () => now)
  front.end(front.begin(), 400, [])
  assert.equal(front.msUntilNews({ ...WHOLE_LOOK, isWhole: false }), 4_000)
  now = 4_000
  front.end(front.begin(), 60_000, [])
  now = 8_999
  assert.equal(front.begin().isWhole, false)
  now = 9_000
  assert.equal(front.begin().isWhole, true)
})

test('with an old transaction open, a look from the front reads none of the jobs that are gone', async (t) => {
  const database = await createTestDatabase(t)
  const db = openTestPool(database)
  await addProvider(database, 'default')
  await ensureQueues(db)
  const holder = new Client({ connectionString: database.url })
  await holder.connect()
  database.beforeDrop(() => holder.end())
  await holder.query('begin isolation level repeatable read; select from mail.stream')
  const insert = (count: number, priority: number) =>
    database.query<{ id: string }>(
      `insert into pgboss.job (name, policy, priority, retry_limit, expire_seconds, keep_until)
       select $1, 'standard', $3, 10, 900, now() + interval '1 day' from generate_series(1, $2::integer) returning id`,
      [QUEUE, count, priority],
    )
  await insert(20_000, 6)
  await database.query('delete from pgboss.job where name = $1', [QUEUE])
  const [{ now_ms: since } = { now_ms: 0 }] = await database.query<{ now_ms: number }>(
    'select extract(epoch from clock_timestamp())::double precision * 1000 as now_ms',
  )
  await insert(30, 6)
  const urgent = (await insert(2, 9)).map(({ id }) => id)

  const look: Look = { isWhole: false, from: new Array(10).fill(since) }
  const read = async (count: number, each: Look) =>
    inTransaction(db, async (trx) => {
      const before = await entriesRead(trx)
      const jobs = await fetchJobs(trx, QUEUE, count, each)
      return { jobs, entries: (await entriesRead(trx)) - before }
    })
  const ahead = await read(10, look)
  const whole = await read(10, WHOLE_LOOK)
  assert.equal(ahead.jobs.length, 10)
  const taken = ahead.jobs.map(({ id }) => id)
  assert.ok(
    urgent.every((id) => taken.includes(id)),
    'urgent ones first',
  )
  assert.equal(whole.jobs.length, 10)
  assert.deepEqual(
    whole.jobs.filter(({ id }) => taken.includes(id)),
    [],
  )
  assert.ok(ahead.entries < 300, `${ahead.entries} entries of the index were read for 10 jobs`)
  assert.ok(whole.entries > 20_000, 'a look at everything reads what is gone')
})

/** Entries of the queue's index that this transaction has read: Postgres counts them as they are returned, dead rows' too. */
async function entriesRead(trx: Transaction): Promise<number> {
  const { rows } = await sql<{ read: string }>`
    select coalesce(sum(pg_stat_get_xact_tuples_returned(i.indexrelid)), 0) as read
    from pgboss.queue q
    join pg_index i on i.indrelid = ('pgboss.' || quote_ident(q.table_name))::regclass
    where q.name = ${QUEUE}
  `.execute(trx)
  return Number(rows[0]?.read)
}
