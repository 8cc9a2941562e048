import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Client } from 'pg'
import { WEBHOOK_EVENTS } from '../../src/webhook-events.ts'
import { fanOut } from '../../src/webhooks/fan-out.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { addEvents, makeEndpoint, openStage } from './webhook-stage.ts'

const URL = 'https://app.example.com/hook'

async function connect(database: TestDatabase): Promise<Client> {
  const client = new Client({ connectionString: database.url })
  await client.connect()
  database.beforeDrop(() => client.end())
  return client
}

async function toldTo(database: TestDatabase, endpoint: string): Promise<string[]> {
  const rows = await database.query<{ message_id: string }>(
    'select message_id from mail.webhook_delivery where endpoint_id = $1',
    [endpoint],
  )
  return rows.map((row) => row.message_id).sort()
}

test('each endpoint gets the types it wants, with a job for each delivery', async (t) => {
  const database = await createTestDatabase(t)
  const { fanOutAll } = await openStage(database)
  const [all, bounces] = [
    await makeEndpoint(database, URL),
    await makeEndpoint(database, URL, ['email.bounced']),
  ]
  const sent = await addEvents(database, 3)
  await addEvents(database, 2, 'queued')
  const bounced = await addEvents(database, 1, 'bounced')
  await fanOutAll(5)
  assert.deepEqual(await toldTo(database, all.id), [...sent, ...bounced].sort())
  assert.deepEqual(await toldTo(database, bounces.id), bounced)
  const unpaired = await database.query(
    `select from mail.webhook_delivery d
     full join pgboss.job j on j.name = 'webhook.' || d.endpoint_id and 'msg_' || replace(j.id::text, '-', '') = d.id
     where d.id is null or j.id is null`,
  )
  assert.equal(unpaired.length, 0)
  const [first] = await database.query<{ payload: { data: { subject: string } } }>(
    'select payload from mail.webhook_delivery limit 1',
  )
  assert.equal(first?.payload.data.subject, 'Hi')
})

test('events that commit late, in any order, from many writers, are each told once, by several processes at once', async (t) => {
  const database = await createTestDatabase(t)
  const endpoint = await makeEndpoint(database, URL)
  const stages = [await openStage(database), await openStage(database)]
  const writers = await Promise.all(Array.from({ length: 6 }, () => connect(database)))
  let isWriting = true
  const reading = stages.map(async (stage) => {
    while (isWriting) await fanOut(stage, 5)
  })
  await Promise.all(
    writers.map(async (client, writer) => {
      for (let round = 0; round < 25; round++) {
        await client.query('begin')
        await addEvents({ query: async (text, values) => (await client.query(text, values)).rows }, 2)
        // So that commits come in another order than the events were written.
        await client.query('select pg_sleep(random() * 0.01)')
        await client.query((round + writer) % 5 === 0 ? 'rollback' : 'commit')
      }
    }),
  )
  isWriting = false
  await Promise.all(reading)
  const written = await database.query<{ message_id: string }>('select message_id from mail.event')
  await stages[0]?.fanOutAll(written.length)
  assert.equal(written.length, 6 * 25 * 2 * 0.8)
  assert.deepEqual(await toldTo(database, endpoint.id), written.map((row) => row.message_id).sort())
})

test('a cursor that is set back tells nobody anything twice', async (t) => {
  const database = await createTestDatabase(t)
  const stage = await openStage(database)
  await makeEndpoint(database, URL)
  await addEvents(database, 4)
  await stage.fanOutAll(4)
  await database.query("delete from pgboss.job where name like 'webhook.%'")
  await database.query("update mail.consumer set cursor = '0:0' where name = 'webhooks'")
  await eventually('the feed is read again', async () => {
    await fanOut(stage)
    const [row] = await database.query<{ cursor: string }>(
      "select cursor from mail.consumer where name = 'webhooks'",
    )
    return row?.cursor !== '0:0'
  })
  assert.equal((await database.query('select from mail.webhook_delivery')).length, 4)
  assert.equal((await database.query("select from pgboss.job where name like 'webhook.%'")).length, 0)
})

test('who listens is told once for a batch, with the cursor up to which there is something to read', async (t) => {
  const database = await createTestDatabase(t)
  const stage = await openStage(database)
  const listener = await connect(database)
  const told: string[] = []
  listener.on('notification', ({ payload }) => told.push(payload ?? ''))
  await listener.query('listen sluice_events')
  await addEvents(database, 50)
  await eventually('the batch is told of', async () => {
    await fanOut(stage)
    return told.length > 0
  })
  const [row] = await database.query<{ cursor: string }>(
    "select cursor from mail.consumer where name = 'webhooks'",
  )
  assert.deepEqual(told, [row?.cursor])
})

test('what a disabled endpoint missed is told when it is asked for, and only that', async (t) => {
  const database = await createTestDatabase(t)
  const stage = await openStage(database)
  const { id } = await makeEndpoint(database, URL)
  const before = await addEvents(database, 2)
  await stage.fanOutAll(2)
  await database.query('select mail.webhook_disable($1)', [id])
  const missed = await addEvents(database, 7)
  await eventually('the feed was read', async () => {
    await fanOut(stage)
    const rows = await database.query('select from mail.webhook_endpoint where skipped_from is not null')
    return rows.length > 0
  })
  await assert.rejects(database.query("select mail.webhook_replay($1, now() - interval '1 day')", [id]), {
    code: '55000',
    hint: /mail\.webhook_enable/,
  })
  assert.deepEqual(await toldTo(database, id), before.toSorted())
  await database.query('select mail.webhook_enable($1)', [id])
  const after = await addEvents(database, 1)
  await stage.fanOutAll(3)
  await database.query("select mail.webhook_replay($1, now() - interval '1 day')", [id])
  await eventually('the rest is made up for, in several rounds', async () => {
    await fanOut(stage, 3)
    return (await toldTo(database, id)).length >= 10
  })
  await eventually('nothing is missing any more', async () => {
    await fanOut(stage, 3)
    const rows = await database.query(
      'select from mail.webhook_endpoint where skipped_from is null and backfill_from is null',
    )
    return rows.length === 1
  })
  assert.deepEqual(await toldTo(database, id), [...before, ...missed, ...after].sort())
})

test('the table and the program know the same events', async (t) => {
  const database = await createTestDatabase(t)
  for (const event of WEBHOOK_EVENTS) await makeEndpoint(database, URL, [event])
  for (const events of [['email.received'], []]) {
    await assert.rejects(makeEndpoint(database, URL, events), { code: '23514' })
  }
})

test('however often a secret is rotated, no more than five sign', async (t) => {
  const database = await createTestDatabase(t)
  const { id } = await makeEndpoint(database, URL)
  for (let n = 0; n < 8; n++) await database.query('select mail.webhook_rotate($1)', [id])
  const secrets = await database.query<{ is_current: boolean }>(
    'select expires_at is null as is_current from mail.webhook_secret order by number desc',
  )
  assert.deepEqual(
    secrets.map((secret) => secret.is_current),
    [true, false, false, false, false],
  )
})
