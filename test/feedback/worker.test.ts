import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { sql } from 'kysely'
import { FEEDBACK_QUEUE } from '../../src/queue/queues.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { openFeedback, recorder } from './feedback-stage.ts'

type Stage = Awaited<ReturnType<typeof openFeedback>>

async function open(t: TestContext): Promise<{ database: TestDatabase; stage: Stage }> {
  const database = await createTestDatabase(t)
  return { database, stage: await openFeedback(database) }
}

/** Stored as if it had been proved, with one job for all of them. */
async function store(
  { database, stage }: { database: TestDatabase; stage: Stage },
  deliveries: readonly { kind: string; body: string | Buffer; endpoint?: string }[],
): Promise<string[]> {
  const ids: string[] = []
  for (const [index, { kind, body, endpoint = kind }] of deliveries.entries()) {
    const [row] = await database.query<{ id: string }>(
      'insert into mail.feedback (endpoint, kind, event_key, body) values ($1, $2, $3, $4) returning id',
      [endpoint, kind, `key-${index}`, Buffer.from(body)],
    )
    ids.push(row?.id ?? '')
  }
  await stage.boss.insert(FEEDBACK_QUEUE, [{ data: { ids } }])
  return ids
}

type Row = { id: string; state: string; reason: string | null; applied_at: Date | null }

function untilSettled({ database }: { database: TestDatabase }): Promise<Row[]> {
  return eventually('everything is settled', async () => {
    const rows = await database.query<Row>(
      'select id, state, reason, applied_at from mail.feedback order by id',
    )
    return rows.every(({ state }) => state !== 'waiting') && rows
  })
}

const bounced = (email: string) => ({
  event: 'bounce',
  email,
  sg_event_id: email,
  type: 'bounce',
  status: '5.1.1',
})

test('deliveries become events that know their provider, and are marked with what there was nothing to do about', async (t) => {
  const opened = await open(t)
  await opened.database.query(
    "insert into mail.provider (name, transport) values ('main', 'inbox') on conflict do nothing",
  )
  await opened.database.query("update mail.webhook_source set provider = 'main' where name = 'sendgrid'")
  await store(opened, [
    { kind: 'sendgrid', body: JSON.stringify([bounced('a@example.net'), { event: 'processed' }]) },
    { kind: 'resend', body: '{"type":"email.sent"}' },
  ])
  const seen = recorder()
  opened.stage.startLoop(seen.applyFeedback)
  const rows = await untilSettled(opened)
  assert.deepEqual(
    rows.map(({ state, reason }) => [state, reason]),
    [
      ['applied', 'nothing to do about processed'],
      ['applied', 'nothing to do about email.sent'],
    ],
  )
  assert.deepEqual(
    seen.told.map(({ provider, recipient, bounce }) => [provider, recipient, bounce?.kind]),
    [['main', 'a@example.net', 'hard']],
  )
  assert.deepEqual(
    await opened.database.query('select from pgboss.job where name = $1', [FEEDBACK_QUEUE]),
    [],
  )
})

test('what cannot be read is parked with the reason, what can be is applied, and both are seen', async (t) => {
  const opened = await open(t)
  await store(opened, [
    { kind: 'sendgrid', body: Buffer.from([0, 255, 1, 2]) },
    { kind: 'sendgrid', body: JSON.stringify([bounced('a@example.net'), null, bounced('b@example.net')]) },
    { kind: 'resend', body: '{"kind":7}' },
    { kind: 'pigeon', body: '{}', endpoint: 'gone' },
    { kind: 'resend', body: '{"type":"email.opened"}' },
  ])
  const seen = recorder()
  opened.stage.startLoop(seen.applyFeedback)
  await untilSettled(opened)
  const parked = await opened.database.query(
    'select endpoint, reason, bytes from mail.feedback_parked order by id',
  )
  assert.deepEqual(parked, [
    { endpoint: 'sendgrid', reason: '1 of 1 could not be read: not a list of SendGrid events', bytes: 4 },
    {
      endpoint: 'sendgrid',
      reason: '1 of 3 could not be read: a SendGrid event without a name',
      bytes: parked[1]?.bytes,
    },
    { endpoint: 'resend', reason: '1 of 1 could not be read: a Resend event without a type', bytes: 10 },
    { endpoint: 'gone', reason: '1 of 1 could not be read: nothing here reads the kind pigeon', bytes: 2 },
  ])
  assert.equal(seen.told.length, 3)
  const [status] = await opened.database.query(
    "select parked, waiting from mail.webhook_status where endpoint = 'sendgrid'",
  )
  assert.deepEqual(status, { parked: '2', waiting: '0' })
})

test('a worker that dies before the commit leaves everything as it was, and another one takes it at once', async (t) => {
  const opened = await open(t)
  await store(opened, [{ kind: 'resend', body: '{"type":"email.opened"}' }])
  const reached = Promise.withResolvers<void>()
  const first = opened.stage.startLoop(async (trx) => {
    const { rows } = await sql<{ pid: number }>`select pg_backend_pid() as pid`.execute(trx)
    // As a SIGKILL of the worker would: its session ends in the middle of the transaction.
    await opened.database.query('select pg_terminate_backend($1)', [rows[0]?.pid])
    void first.stop()
    reached.resolve()
  })
  await reached.promise
  await first.stop()
  const seen = recorder()
  opened.stage.startLoop(seen.applyFeedback)
  const rows = await untilSettled(opened)
  assert.equal(rows[0]?.state, 'applied')
  assert.equal(seen.told.length, 1)
})

test('one delivery that the database refuses is parked alone; the others of its batch are applied', async (t) => {
  const opened = await open(t)
  await store(
    opened,
    ['good-1', 'poison', 'good-2'].map((id) => ({
      kind: 'resend',
      body: JSON.stringify({ type: 'email.opened', data: { email_id: id } }),
    })),
  )
  await opened.database.query('create table public.applied (id text check (id <> $$poison$$))')
  opened.stage.startLoop(async (trx, events) => {
    const ids = events.map(({ match }) => ({ id: match.providerMessageId ?? '' }))
    await trx
      .withTables<{ 'public.applied': { id: string } }>()
      .insertInto('public.applied')
      .values(ids)
      .execute()
  })
  const rows = await untilSettled(opened)
  assert.deepEqual(
    rows.map(({ state, reason }) => [state, reason]),
    [
      ['applied', null],
      ['parked', 'could not be applied (23514); the log has the details'],
      ['applied', null],
    ],
  )
  assert.deepEqual(await opened.database.query('select id from public.applied order by id'), [
    { id: 'good-1' },
    { id: 'good-2' },
  ])
})

test('deliveries of many bytes are applied over several rounds, each event in one call', async (t) => {
  const opened = await open(t)
  const batch = (name: string) =>
    JSON.stringify(Array.from({ length: 5_000 }, (_, n) => bounced(`${name}-${n}@example.net`)))
  await store(
    opened,
    ['a', 'b', 'c', 'd'].map((name) => ({ kind: 'sendgrid', body: batch(name) })),
  )
  const calls: number[] = []
  opened.stage.startLoop(async (_trx, events) => {
    calls.push(events.length)
  })
  await untilSettled(opened)
  assert.equal(
    calls.reduce((sum, count) => sum + count, 0),
    20_000,
  )
  assert.ok(calls.length >= 2 && Math.max(...calls) <= 15_000, String(calls))
})

test('a fault that passes is tried again, and nothing is parked for it', async (t) => {
  const opened = await open(t)
  await store(opened, [{ kind: 'resend', body: '{"type":"email.opened"}' }])
  let tries = 0
  opened.stage.startLoop(async () => {
    tries += 1
    if (tries < 3) throw Object.assign(new Error('deadlock detected'), { code: '40P01' })
  })
  const rows = await untilSettled(opened)
  assert.deepEqual([rows[0]?.state, tries], ['applied', 3])
})

test('parked deliveries are taken up again by SQL, of one endpoint or of all', async (t) => {
  const opened = await open(t)
  const ids = await store(opened, [
    { kind: 'sendgrid', body: '{}' },
    { kind: 'resend', body: '{}' },
    { kind: 'resend', body: '[]' },
  ])
  const seen = recorder()
  opened.stage.startLoop(seen.applyFeedback)
  await untilSettled(opened)
  await opened.database.query('update mail.feedback set body = $1 where id = $2', [
    Buffer.from('{"type":"email.opened"}'),
    ids[1],
  ])
  const retry = async (args: string) => {
    const [row] = await opened.database.query<{ count: number }>(
      `select mail.feedback_retry(${args}) as count`,
    )
    return row?.count
  }
  assert.equal(await retry("'mailgun'"), 0)
  assert.equal(await retry("'resend'"), 2)
  assert.deepEqual(
    (await untilSettled(opened)).map(({ state }) => state),
    ['parked', 'applied', 'parked'],
  )
  assert.equal(seen.told.length, 1)
  assert.equal(await retry('max => 1'), 1)
  assert.equal((await untilSettled(opened)).filter(({ state }) => state === 'parked').length, 2)
})
