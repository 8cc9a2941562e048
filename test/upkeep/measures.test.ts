import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { test } from 'node:test'
import { LiveCatalog } from '../../src/catalog.ts'
import { openPool } from '../../src/db/pool.ts'
import { createLog } from '../../src/log.ts'
import { Meter, TIME_BOUNDS_S } from '../../src/meter.ts'
import { createDepthDuty } from '../../src/upkeep/depth.ts'
import {
  addMeasures,
  countDepth,
  estimateDepth,
  lead,
  stopLeading,
  takeSample,
} from '../../src/upkeep/measures-queries.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { post, untilStatus } from '../support/messages.ts'
import { startTestService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'

function open(database: TestDatabase) {
  const { db, close } = openPool({
    url: database.url,
    maxConnections: 3,
    role: undefined,
    log: createLog('silent'),
  })
  database.beforeDrop(close)
  return db
}

async function depths(database: TestDatabase) {
  const rows = await database.query<{ stage: string; stream: string; ready: string; deferred: string }>(
    'select stage, stream, ready, deferred from mail.depth where ready + deferred > 0 order by stage, stream',
  )
  return rows.map(({ stage, stream, ready, deferred }) => [stage, stream, Number(ready), Number(deferred)])
}

test('the bounds of the buckets are the same in SQL and here', async (t) => {
  const database = await createTestDatabase(t)
  const [row] = await database.query<{ bounds: number[] }>('select mail.time_bounds() as bounds')
  assert.deepEqual(row?.bounds, [...TIME_BOUNDS_S])
})

test('between counts the depth follows what comes in and goes out', async (t) => {
  const database = await createTestDatabase(t)
  const db = open(database)
  const waiting = { stage: 'dispatch', stream: 'transactional', provider: 'default' }
  await database.query(
    `insert into pgboss.job (name, id, priority)
     select 'dispatch.default.transactional', gen_random_uuid(), 4 from generate_series(1, 40)`,
  )
  await countDepth(db)
  assert.deepEqual(await depths(database), [['dispatch', 'transactional', 40, 0]])

  const meter = new Meter()
  meter.cameIn(waiting, 25)
  meter.wentOut(waiting, 5)
  meter.cameIn({ stage: 'processing', stream: 'alerts', provider: '' }, 3)
  const process = randomUUID()
  await meter.tell((measures) => addMeasures(db, process, measures))
  await estimateDepth(db)
  assert.deepEqual(await depths(database), [
    ['dispatch', 'transactional', 60, 0],
    ['processing', 'alerts', 3, 0],
  ])

  // Nobody said that these left: only the next count can know. The flow from before it counts no more.
  await database.query("delete from pgboss.job where name = 'dispatch.default.transactional'")
  await countDepth(db)
  assert.deepEqual(await depths(database), [])
  meter.cameIn(waiting, 2)
  await meter.tell((measures) => addMeasures(db, process, measures))
  await estimateDepth(db)
  assert.deepEqual(await depths(database), [['dispatch', 'transactional', 2, 0]])
})

test('the oldest that waits is found without counting', async (t) => {
  const database = await createTestDatabase(t)
  const db = open(database)
  await countDepth(db)
  await database.query(
    `insert into mail.throughput (bucket_at, process, stage, stream, provider, came_in)
     values (date_bin('10 seconds', clock_timestamp(), 'epoch'), gen_random_uuid(), 'dispatch', 'transactional', 'default', 3)`,
  )
  await database.query(
    `insert into pgboss.job (name, id, priority, created_on, start_after)
     values ('dispatch.default.transactional', gen_random_uuid(), 4, now() - interval '1 hour', now() - interval '10 seconds'),
       ('dispatch.default.transactional', gen_random_uuid(), 9, now() - interval '2 minutes', now() - interval '2 minutes'),
       ('dispatch.default.transactional', gen_random_uuid(), 9, now() - interval '9 minutes', now() + interval '2 minutes')`,
  )
  await estimateDepth(db)
  const [row] = await database.query<{ age: number }>(
    `select extract(epoch from clock_timestamp() - oldest_at)::float as age from mail.depth where stage = 'dispatch'`,
  )
  assert.ok(row !== undefined && row.age >= 120 && row.age < 180, `${row?.age} s`)
})

test('between counts the doors and the schedule say themselves what is left of what was counted', async (t) => {
  const database = await createTestDatabase(t)
  const db = open(database)
  const schedule = (count: number, dueIn: string) =>
    database.query(
      `insert into mail.scheduled (message_id, stream, priority, due_at)
       select mail.uuid7(), 'marketing', 7, now() + $2::interval from generate_series(1, $1::integer)`,
      [count, dueIn],
    )
  await database.query(
    `insert into mail.intake (message, stream, priority, received_at)
     select '{}', 'transactional', 1, now() - interval '1 minute' from generate_series(1, 30)`,
  )
  await schedule(10, '-1 minute')
  await schedule(20, '1 day')
  await countDepth(db)
  const counted = [
    ['intake', 'transactional', 30, 0],
    ['scheduled', 'marketing', 10, 20],
  ]
  assert.deepEqual(await depths(database), counted)
  await estimateDepth(db)
  assert.deepEqual(await depths(database), counted)

  await database.query(
    `delete from mail.intake where seq > (select min(seq) from mail.intake);
     update mail.intake set received_at = now(), seq = nextval('mail.message_seq')`,
  )
  await database.query('delete from mail.scheduled where due_at < now()')
  await schedule(5, '1 day')
  const meter = new Meter()
  meter.cameIn({ stage: 'scheduled', stream: 'marketing', provider: '' }, 5)
  meter.wentOut({ stage: 'scheduled', stream: 'marketing', provider: '' }, 10)
  await meter.tell((measures) => addMeasures(db, randomUUID(), measures))
  await estimateDepth(db)
  assert.deepEqual(await depths(database), [
    ['intake', 'transactional', 1, 0],
    ['scheduled', 'marketing', 0, 25],
  ])
  const [oldest] = await database.query<{ is_recent: boolean }>(
    "select oldest_at > now() - interval '30 seconds' as is_recent from mail.depth where stage = 'intake'",
  )
  assert.equal(oldest?.is_recent, true)

  await database.query('delete from mail.intake')
  await estimateDepth(db)
  const rows = await database.query('select stage, oldest_at from mail.depth where oldest_at is not null')
  assert.deepEqual([rows, await depths(database)], [[], [['scheduled', 'marketing', 0, 25]]])
})

test('what a send window lets go, or holds, is counted at once', async (t) => {
  const database = await createTestDatabase(t)
  const db = open(database)
  const catalog = await LiveCatalog.open(db, async () => undefined)
  await database.query(
    `insert into pgboss.job (name, id, priority)
     select 'dispatch.default.marketing', gen_random_uuid(), 4 from generate_series(1, 40)`,
  )
  let now = 0
  // Each look at the clock is a second later: a count takes so long, and the next is due in 200.
  const duty = createDepthDuty({ db, catalog, now: () => (now += 1_000) })
  const waiting = async () => {
    await catalog.refresh()
    await duty.run()
    return depths(database)
  }
  assert.deepEqual(await waiting(), [['dispatch', 'marketing', 40, 0]])
  await database.query(
    `insert into mail.send_window (stream, opens, closes)
     select 'marketing', at::time, (at + interval '1 minute')::time
     from date_trunc('minute', now() at time zone 'utc' + interval '12 hours') at`,
  )
  assert.deepEqual(await waiting(), [['dispatch', 'marketing', 0, 40]])
  await database.query('delete from mail.send_window')
  assert.deepEqual(await waiting(), [['dispatch', 'marketing', 40, 0]])
})

test('growth is by how much more waits than a minute ago', async (t) => {
  const database = await createTestDatabase(t)
  const db = open(database)
  await database.query(
    `insert into pgboss.job (name, id, priority)
     select 'dispatch.default.transactional', gen_random_uuid(), 4 from generate_series(1, 90)`,
  )
  await countDepth(db)
  await takeSample(db)
  assert.deepEqual(await database.query('select growth_per_s from mail.growth'), [{ growth_per_s: null }])
  await database.query("update mail.sample set at = at - interval '70 seconds', ready = 20")
  const rows = await database.query<{ waiting: string; growth: number }>(
    "select waiting, growth_per_s::float as growth from mail.growth where stage = 'dispatch'",
  )
  assert.equal(rows[0]?.waiting, '90')
  const growth = rows[0]?.growth ?? 0
  assert.ok(growth >= 70 / 91 && growth <= 70 / 60, `${growth} a second`)
})

test('one process leads; another does when it resigns or is not heard of any more', async (t) => {
  const database = await createTestDatabase(t)
  const db = open(database)
  const [first, second, third] = [randomUUID(), randomUUID(), randomUUID()]
  const asked = await Promise.all([first, first, first].map((id) => lead(db, id, 'first')))
  assert.ok(asked.includes(true))
  assert.equal(await lead(db, first, 'first'), true)
  assert.equal(await lead(db, second, 'second'), false)
  await stopLeading(db, second)
  assert.equal(await lead(db, second, 'second'), false)
  await stopLeading(db, first)
  assert.equal(await lead(db, second, 'second'), true)
  assert.equal(await lead(db, first, 'first'), false)
  await database.query("update mail.leader set renewed_at = renewed_at - interval '11 seconds'")
  assert.equal(await lead(db, third, 'third'), true)
  assert.equal(await lead(db, second, 'second'), false)
})

test('of two processes that ask at the same moment, one leads', async (t) => {
  const database = await createTestDatabase(t)
  const db = open(database)
  for (let turn = 0; turn < 10; turn += 1) {
    await database.query('delete from mail.leader')
    const ids = [randomUUID(), randomUUID(), randomUUID()]
    const leads = await Promise.all(ids.map((id) => lead(db, id, 'one')))
    assert.ok(leads.filter(Boolean).length <= 1)
  }
})

test('what a service does shows in mail.flow, with the time that sending took', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  const service = await startTestService(database, { SMTP_URL: sink.url })
  const ids = await Promise.all(Array.from({ length: 6 }, () => post(service)))
  for (const id of ids) await untilStatus(database, id, 'sent')
  await eventually('the counts are written', async () => {
    const [row] = await database.query<{ sent: string }>(
      "select coalesce(sum(count), 0) as sent from mail.tally where kind = 'sent'",
    )
    return Number(row?.sent) === 6
  })
  // The minute that mail.flow shows ends with the bucket before the present one.
  await database.query("update mail.tally set bucket_at = bucket_at - interval '10 seconds'")
  await database.query("update mail.tally_time set bucket_at = bucket_at - interval '10 seconds'")
  const rows = await database.query<Record<string, unknown>>(
    `select stream, provider, sum(accepted_per_s) as accepted, sum(processed_per_s) as processed, sum(sent_per_s) as sent,
       sum(requests_per_s) as requests, sum(faults_per_s) as faults, max(error_rate) as errors,
       max(send_p50_s) > 0 and max(send_p50_s) < 60 as timed, max(latency_p50_s) > 0 as measured
     from mail.flow group by stream, provider order by provider`,
  )
  assert.deepEqual(rows, [
    {
      stream: 'transactional',
      provider: '',
      accepted: '0.10',
      processed: '0.10',
      sent: '0.00',
      requests: '0.00',
      faults: '0.00',
      errors: null,
      timed: null,
      measured: null,
    },
    {
      stream: 'transactional',
      provider: 'default',
      accepted: '0.00',
      processed: '0.00',
      sent: '0.10',
      requests: '0.10',
      faults: '0.00',
      errors: '0.0000',
      timed: true,
      measured: true,
    },
  ])
})
