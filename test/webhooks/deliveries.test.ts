/** From an event to the app: a whole service, and the app's side on loopback. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { Client } from 'pg'
import { Webhook } from 'standardwebhooks'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { post } from '../support/messages.ts'
import { spawnService, startTestService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'
import { startWebhookReceiver, type WebhookReceiver } from '../support/webhook-receiver.ts'
import { addEvents, makeEndpoint, openStage } from './webhook-stage.ts'

async function start(t: TestContext, receiver: WebhookReceiver) {
  const sink = await startSmtpSink(t)
  const database = await createTestDatabase(t)
  const service = await startTestService(database, {
    SMTP_URL: sink.url,
    SLUICE_WEBHOOK_HOSTS: receiver.host,
  })
  return { database, service }
}

/** One that answers when the test says so. */
async function startHeldReceiver(t: TestContext) {
  const held = Promise.withResolvers<void>()
  const receiver = await startWebhookReceiver(t, () => (response) => {
    held.promise.then(() => response.writeHead(200).end())
  })
  return { receiver, held }
}

type DeliveryRow = {
  readonly id: string
  readonly state: string
  readonly attempts: number
  readonly tries: number
  readonly last_status: number | null
  readonly last_error: string | null
  readonly wait_s: number
}

async function deliveriesOf({ query }: TestDatabase, endpoint: string): Promise<DeliveryRow[]> {
  return query<DeliveryRow>(
    `select *, extract(epoch from next_attempt_at - last_attempt_at)::double precision as wait_s
     from mail.webhook_delivery where endpoint_id = $1 order by id`,
    [endpoint],
  )
}

function untilState(database: TestDatabase, endpoint: string, state: string): Promise<DeliveryRow> {
  return eventually(`the delivery is ${state}`, async () => {
    const [row] = await deliveriesOf(database, endpoint)
    return row?.state === state && row
  })
}

async function connect(database: TestDatabase): Promise<Client> {
  const client = new Client({ connectionString: database.url })
  await client.connect()
  database.beforeDrop(() => client.end())
  return client
}

function untilSomebodyWaits({ query }: TestDatabase, statement: string): Promise<unknown> {
  return eventually(`a statement like ${statement} waits for a lock`, async () => {
    const rows = await query(
      `select from pg_stat_activity
       where datname = current_database() and wait_event_type = 'Lock' and query like '%' || $1`,
      [statement],
    )
    return rows.length > 0
  })
}

/** As if the time of the next attempt had come. */
async function makeDue({ query }: TestDatabase): Promise<void> {
  await query("update pgboss.job set start_after = now() where name like 'webhook.%'")
}

test('a mail that was sent is told of, signed, with both secrets while they change', async (t) => {
  const receiver = await startWebhookReceiver(t)
  const { database, service } = await start(t, receiver)
  const endpoint = await makeEndpoint(database, receiver.url, ['email.sent'])
  const id = await post(service, { subject: 'Grüße', tags: [{ name: 'kind', value: 'order' }] })
  const [first] = await receiver.waitFor(1)
  assert.ok(first)
  new Webhook(endpoint.secret).verify(first.body, first.headers)
  const { type, data } = first.event
  assert.equal(type, 'email.sent')
  assert.deepEqual(
    [data.email_id, data.message_id, data.from, data.to, data.subject, data.tags],
    [id, `<${id}@example.com>`, 'Shop <shop@example.com>', ['ann@example.net'], 'Grüße', { kind: 'order' }],
  )
  assert.equal(first.headers['svix-signature'], first.headers['webhook-signature'])
  assert.equal((await untilState(database, endpoint.id, 'success')).attempts, 1)

  const [rotated] = await database.query<{ secret: string }>('select mail.webhook_rotate($1) as secret', [
    endpoint.id,
  ])
  assert.ok(rotated && rotated.secret !== endpoint.secret)
  await post(service)
  const second = (await receiver.waitFor(2))[1]
  assert.ok(second)
  for (const secret of [endpoint.secret, rotated.secret])
    new Webhook(secret).verify(second.body, second.headers)

  await database.query(
    "update mail.webhook_secret set expires_at = now() - interval '1 s' where expires_at is not null",
  )
  await post(service)
  const third = (await receiver.waitFor(3))[2]
  assert.ok(third)
  new Webhook(rotated.secret).verify(third.body, third.headers)
  assert.throws(() => new Webhook(endpoint.secret).verify(third.body, third.headers))
})

test('what fails is tried again by the schedule under the same id, and each answer is on record', async (t) => {
  const receiver = await startWebhookReceiver(t, (_webhook, count) => (count <= 2 ? 500 + count : 204))
  const { database } = await start(t, receiver)
  const { id } = await makeEndpoint(database, receiver.url)
  await addEvents(database, 1)
  const once = await eventually('the first attempt is settled', async () => {
    const [row] = await deliveriesOf(database, id)
    return row?.attempts === 1 && row
  })
  assert.deepEqual([once.state, once.last_status], ['attempting', 501])
  assert.ok(once.wait_s >= 5 && once.wait_s < 8, `${once.wait_s} s`)
  await makeDue(database)
  const twice = await eventually('the second attempt is settled', async () => {
    const [row] = await deliveriesOf(database, id)
    return row?.attempts === 2 && row
  })
  assert.ok(twice.wait_s >= 300 && twice.wait_s <= 365, `${twice.wait_s} s`)
  const [failing] = await database.query(
    'select failures, failing_since is not null as fails, last_failure from mail.webhook_endpoint',
  )
  assert.deepEqual(failing, { failures: 2, fails: true, last_failure: 'status 502' })
  await makeDue(database)
  await untilState(database, id, 'success')
  assert.equal(new Set(receiver.received.map(({ headers }) => headers['webhook-id'])).size, 1)
  assert.equal(new Set(receiver.received.map(({ body }) => body)).size, 1)
  const attempts = await database.query(
    'select number, status, response from mail.webhook_attempt order by number',
  )
  assert.deepEqual(attempts, [
    { number: 1, status: 501, response: 'noted' },
    { number: 2, status: 502, response: 'noted' },
    { number: 3, status: 204, response: '' },
  ])
  const [well] = await database.query('select failures, failing_since from mail.webhook_endpoint')
  assert.deepEqual(well, { failures: 0, failing_since: null })
})

test('the eighth failure is the last, and a replay begins anew', async (t) => {
  let status = 500
  const receiver = await startWebhookReceiver(t, () => status)
  const { database } = await start(t, receiver)
  const { id } = await makeEndpoint(database, receiver.url)
  await addEvents(database, 1)
  for (let attempt = 1; attempt <= 8; attempt++) {
    await eventually(`attempt ${attempt} is settled`, async () => {
      await makeDue(database)
      const [row] = await deliveriesOf(database, id)
      return row?.attempts === attempt
    })
  }
  const failed = await untilState(database, id, 'failed')
  assert.equal((await database.query("select from pgboss.job where name like 'webhook.%'")).length, 0)
  status = 200
  const [replayed] = await database.query('select mail.webhook_replay($1) as done', [failed.id])
  assert.deepEqual(replayed, { done: true })
  const done = await untilState(database, id, 'success')
  assert.deepEqual([done.attempts, done.tries], [9, 1])
})

test('an endpoint that never answers holds up nobody else', async (t) => {
  const receiver = await startWebhookReceiver(t, ({ path }) => (path === '/hang' ? 'hang' : 200))
  const { database } = await start(t, receiver)
  await makeEndpoint(database, `${receiver.host}/hang`)
  const well = await makeEndpoint(database, receiver.url)
  await addEvents(database, 200)
  await eventually('all is told to the one that answers', async () => {
    const rows = await deliveriesOf(database, well.id)
    return rows.length === 200 && rows.every(({ state }) => state === 'success')
  })
  const hung = receiver.received.filter(({ path }) => path === '/hang')
  assert.equal(hung.length, 10, 'the slots of the other one are all taken, and no more')
})

test('after five days of nothing but failures an endpoint is disabled; it goes on when it is enabled', async (t) => {
  let status = 500
  const receiver = await startWebhookReceiver(t, () => status)
  const { database } = await start(t, receiver)
  const { id } = await makeEndpoint(database, receiver.url)
  await addEvents(database, 1)
  await eventually('it fails', async () => {
    const rows = await database.query('select from mail.webhook_endpoint where failures = 1')
    return rows.length === 1
  })
  await database.query(`update mail.webhook_endpoint set failing_since = now() - interval '5 days 1 minute'`)
  await makeDue(database)
  const seen = await eventually('it is disabled', async () => {
    const [row] = await database.query<{ status: string; disabled_reason: string; waiting: string }>(
      'select status, disabled_reason, waiting from mail.webhook_endpoint_status',
    )
    return row?.status === 'disabled' && row
  })
  assert.match(seen.disabled_reason, /^every request since .* failed, the latest: status 500$/)
  assert.equal(Number(seen.waiting), 1)
  status = 200
  await makeDue(database)
  await database.query('select mail.webhook_enable($1)', [id])
  await untilState(database, id, 'success')
})

test('a few failures among successes disable nothing', async (t) => {
  const receiver = await startWebhookReceiver(t, (_webhook, count) => (count % 2 === 0 ? 500 : 200))
  const { database } = await start(t, receiver)
  await makeEndpoint(database, receiver.url)
  await database.query(
    `update mail.webhook_endpoint set failures = 9, failing_since = now() - interval '4 days'`,
  )
  await addEvents(database, 1)
  await eventually('a success is noted', async () => {
    const rows = await database.query(
      "select from mail.webhook_endpoint where failing_since is null and status = 'enabled'",
    )
    return rows.length === 1
  })
})

test('410 disables at once and is not tried again', async (t) => {
  const receiver = await startWebhookReceiver(t, () => 410)
  const { database } = await start(t, receiver)
  const { id } = await makeEndpoint(database, receiver.url)
  await addEvents(database, 1)
  await untilState(database, id, 'failed')
  const [row] = await database.query('select status, disabled_reason from mail.webhook_endpoint')
  assert.deepEqual(row, { status: 'disabled', disabled_reason: 'it answered 410 Gone' })
  assert.equal(receiver.received.length, 1)
})

test('an endpoint in a private network is refused at the request, however it came into the table', async (t) => {
  const receiver = await startWebhookReceiver(t)
  const database = await createTestDatabase(t)
  await startTestService(database)
  const { id } = await makeEndpoint(database, receiver.url)
  await addEvents(database, 1)
  const row = await untilState(database, id, 'attempting')
  assert.match(row.last_error ?? '', /SLUICE_WEBHOOK_HOSTS/)
  assert.equal(receiver.received.length, 0)
})

test('an endpoint that is removed in the middle of a request leaves nothing behind that waits', async (t) => {
  const { receiver, held } = await startHeldReceiver(t)
  const { database, service } = await start(t, receiver)
  const { id } = await makeEndpoint(database, receiver.url)
  await addEvents(database, 1)
  await receiver.waitFor(1)
  await database.query('select mail.webhook_remove($1)', [id])
  held.resolve()
  assert.equal(await service.stop(), true)
  for (const query of [
    "select from pgboss.job where name like 'webhook.%'",
    "select from pgboss.queue where name like 'webhook.%'",
    'select from mail.claim',
    'select from mail.webhook_secret',
  ]) {
    assert.equal((await database.query(query)).length, 0, query)
  }
})

test('what ended is written after the endpoint is had: whoever removes or replays it waits for nobody', async (t) => {
  const { receiver, held } = await startHeldReceiver(t)
  const { database } = await start(t, receiver)
  const { id } = await makeEndpoint(database, receiver.url)
  await addEvents(database, 1)
  await receiver.waitFor(1)
  const person = await connect(database)
  await person.query('begin')
  await person.query('select from mail.webhook_endpoint where id = $1 for update', [id])
  held.resolve()
  await untilSomebodyWaits(database, 'webhooks.%')
  // What the outcome is about is free still.
  await person.query('select from mail.webhook_delivery for update nowait')
  await person.query("select from pgboss.job where name like 'webhook.%' for update nowait")
  await person.query('commit')
  await untilState(database, id, 'success')
})

test('an endpoint that is removed while somebody is about to tell it something leaves nothing behind', async (t) => {
  const database = await createTestDatabase(t)
  const stage = await openStage(database)
  const { id } = await makeEndpoint(database, 'https://app.example.com/hook')
  await stage.fanOutAll(0)
  const teller = await connect(database)
  await teller.query('begin')
  await teller.query("select from mail.consumer where name = 'webhooks' for update")
  await teller.query(
    `insert into pgboss.job (name, id, retry_limit, retry_delay, retry_backoff, expire_seconds, deletion_seconds, policy)
     select name, gen_random_uuid(), retry_limit, retry_delay, retry_backoff, expire_seconds, deletion_seconds, policy
     from pgboss.queue where name = $1`,
    [`webhook.${id}`],
  )
  const removing = database.query('select mail.webhook_remove($1) as removed', [id])
  await untilSomebodyWaits(database, '%webhook_remove%')
  await teller.query('commit')
  assert.deepEqual(await removing, [{ removed: true }])
  assert.deepEqual(await database.query("select id from pgboss.job where name like 'webhook.%'"), [])
})

test('a worker that is killed in the middle of a request: another tells it again, under the same id', {
  timeout: 90_000,
}, async (t) => {
  const receiver = await startWebhookReceiver(t, (_webhook, count) => (count === 1 ? 'hang' : 200))
  const database = await createTestDatabase(t)
  const settings = { SLUICE_ROLES: 'worker', SLUICE_WEBHOOK_HOSTS: receiver.host }
  const doomed = await spawnService(t, database.url, settings)
  const { id } = await makeEndpoint(database, receiver.url)
  await addEvents(database, 1)
  await receiver.waitFor(1)
  await eventually('the claim is on record', async () => {
    return (await database.query("select from mail.claim where queue like 'webhook.%'")).length === 1
  })
  process.kill(doomed.pid, 'SIGKILL')
  await doomed.ended
  await startTestService(database, settings)
  await untilState(database, id, 'success')
  const [first, second] = receiver.received
  assert.equal(second?.headers['webhook-id'], first?.headers['webhook-id'])
  assert.equal(second?.body, first?.body)
})

test('a service that stops lets requests under way finish', async (t) => {
  const { receiver, held } = await startHeldReceiver(t)
  const { database, service } = await start(t, receiver)
  const { id } = await makeEndpoint(database, receiver.url)
  await addEvents(database, 1)
  await receiver.waitFor(1)
  const stopped = service.stop()
  held.resolve()
  assert.equal(await stopped, true)
  const [row] = await deliveriesOf(database, id)
  assert.equal(row?.state, 'success')
})

test('a request that is cut off because the service stops goes again at once and is held against nobody', async (t) => {
  const receiver = await startWebhookReceiver(t, () => 'hang')
  const sink = await startSmtpSink(t)
  const database = await createTestDatabase(t)
  const service = await startTestService(database, {
    SMTP_URL: sink.url,
    SLUICE_WEBHOOK_HOSTS: receiver.host,
    SLUICE_STOP_TIMEOUT_MS: '0',
  })
  const { id } = await makeEndpoint(database, receiver.url)
  await addEvents(database, 1)
  await receiver.waitFor(1)
  await service.stop()
  const [row] = await deliveriesOf(database, id)
  assert.deepEqual([row?.state, row?.attempts], ['pending', 0])
  const due = await database.query(
    "select from pgboss.job where name like 'webhook.%' and state = 'created' and start_after <= now()",
  )
  assert.equal(due.length, 1)
  assert.deepEqual(await database.query('select from mail.claim'), [])
  const [endpoint] = await database.query('select failures, failing_since from mail.webhook_endpoint')
  assert.deepEqual(endpoint, { failures: 0, failing_since: null })
})
