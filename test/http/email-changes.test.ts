import assert from 'node:assert/strict'
import { before, describe, test } from 'node:test'
import { Client } from 'pg'
import { Resend } from 'resend'
import { createKey, type KeyScope } from '../../src/keys/keys.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { eventTypesOf, post, readMessage, untilStatus } from '../support/messages.ts'
import { orderMail, startTestService, TEST_KEY, type TestService } from '../support/service.ts'
import { type SmtpSink, startSmtpSink } from '../support/smtp-sink.ts'
import { sluiceIdOf } from '../support/sunk-mail.ts'

const NOBODY = '00000000-0000-7000-8000-000000000000'

let database: TestDatabase
let service: TestService
let sink: SmtpSink

before(async (t) => {
  const context = t as Parameters<typeof createTestDatabase>[0]
  sink = await startSmtpSink(context, {
    onRecipient: (address) =>
      address.startsWith('busy') ? { code: 450, text: '4.2.1 Mailbox busy' } : undefined,
  })
  database = await createTestDatabase(context)
  await database.query(
    `insert into mail.provider (name, transport, credentials_env) values ('default', 'smtp', 'SMTP_URL');
     insert into mail.stream (name) values ('halted'), ('resumed');
     select mail.pause('halted'), mail.pause('resumed')`,
  )
  service = await startTestService(database, { SMTP_URL: sink.url })
  await database.query('update mail.provider set breaker_run = 1000, breaker_volume = 1000000')
})

type Answer = { status: number; body: { id?: string; object?: string; name?: string; message?: string } }

async function ask(path: string, method: 'PATCH' | 'POST', body?: unknown): Promise<Answer> {
  const response = await service.request(path, { method, ...(body === undefined ? {} : { body }) })
  return { status: response.status, body: (await response.json()) as Answer['body'] }
}

const cancel = (id: string) => ask(`/emails/${id}/cancel`, 'POST')
const move = (id: string, scheduledAt: unknown) =>
  ask(`/emails/${id}`, 'PATCH', { scheduled_at: scheduledAt })

async function refused(answer: Promise<Answer>, status: number, name: string, message: RegExp) {
  const { status: given, body } = await answer
  assert.deepEqual([given, body.name], [status, name], body.message)
  assert.match(body.message ?? '', message)
}

/** A message in this state: held in a stream that is paused from the beginning, or refused for now by the relay. */
async function held(state: 'queued' | 'deferred', stream: string): Promise<string> {
  const to = state === 'deferred' ? 'busy@example.net' : 'ann@example.net'
  const id = await post(service, { stream: state === 'deferred' ? 'alerts' : stream, to })
  await untilStatus(database, id, state)
  return id
}

describe('an email', () => {
  test('that is scheduled is moved and canceled, as often as one likes', async () => {
    const id = await post(service, { scheduled_at: 'in 1 hour' })
    const at = new Date(Date.now() + 7_200_000).toISOString()
    for (const given of [at, at]) {
      assert.deepEqual(await move(id, given), { status: 200, body: { object: 'email', id } })
    }
    const shown = (await (await service.request(`/emails/${id}`)).json()) as Record<string, unknown>
    assert.deepEqual([shown.scheduled_at, shown.last_event, shown.status], [at, 'scheduled', 'scheduled'])
    for (let n = 0; n < 2; n += 1) {
      assert.deepEqual(await cancel(id), { status: 200, body: { object: 'email', id } })
    }
    assert.deepEqual(await eventTypesOf(database, id), ['scheduled', 'scheduled', 'canceled'])
    await refused(move(id, at), 422, 'validation_error', /can no longer be rescheduled: it is `canceled`/)
  })

  test('that is stored is found without a look at the doors, which may be full', async () => {
    const id = await post(service, { scheduled_at: 'in 1 hour' })
    const flood = new Client({ connectionString: database.url })
    await flood.connect()
    try {
      await flood.query('begin; lock table mail.intake, mail.outbox')
      assert.equal((await move(id, 'in 2 hours')).status, 200)
      assert.equal((await cancel(id)).status, 200)
    } finally {
      await flood.end()
    }
  })

  for (const state of ['queued', 'deferred'] as const) {
    test(`that is ${state} is canceled, and its job is gone`, async () => {
      const id = await held(state, 'halted')
      assert.equal((await cancel(id)).status, 200)
      assert.equal((await readMessage(database, id))?.status, 'canceled')
      assert.deepEqual(await database.query('select from pgboss.job where id = $1', [id]), [])
    })

    test(`that is ${state} is moved, and processed anew when it is due`, async () => {
      const id = await held(state, 'resumed')
      await database.query(
        `insert into mail.message_prepared (id, subject) values ($1, 'left over') on conflict (id) do nothing`,
        [id],
      )
      assert.equal((await move(id, 'in 1 hour')).status, 200)
      assert.equal((await readMessage(database, id))?.status, 'scheduled')
      assert.deepEqual(await database.query('select from pgboss.job where id = $1', [id]), [])
      await database.query("select mail.resume('resumed')")
      await database.query(`update mail.message_content
        set message = jsonb_set(message::jsonb, '{to,0,address}', '"free@example.net"')::json where id = '${id}'`)
      assert.equal((await move(id, 'now')).status, 200)
      await untilStatus(database, id, 'sent')
      const [mail] = sink.mails.filter((each) => sluiceIdOf(each) === id)
      assert.match(mail?.raw.toString() ?? '', /^Subject: Your order\r$/m)
    })
  }

  test('that waits for processing is canceled, and the batch it is in comes to its end', async (t) => {
    const quiet = await createTestDatabase(t)
    const api = await startTestService(quiet, { SMTP_URL: sink.url, SLUICE_ROLES: 'api' })
    const ids = [await post(api), await post(api)]
    for (const id of ids) {
      const response = await api.request(`/emails/${id}/cancel`, { method: 'POST' })
      assert.equal(response.status, 200)
    }
    await startTestService(quiet, { SMTP_URL: sink.url, SLUICE_ROLES: 'worker' })
    await eventually('the job is done', async () => {
      const jobs = await quiet.query("select from pgboss.job where name like 'process.%'")
      return jobs.length === 0
    })
    for (const id of ids) {
      assert.equal((await readMessage(quiet, id))?.status, 'canceled')
      assert.deepEqual(await eventTypesOf(quiet, id), ['accepted', 'canceled'])
    }
  })

  test('that was sent can be neither, and says so', async () => {
    const id = await post(service)
    await untilStatus(database, id, 'sent')
    await refused(cancel(id), 422, 'validation_error', /can no longer be canceled: it is `sent`.*`queued`/)
    await refused(move(id, 'in 1 hour'), 422, 'validation_error', /rescheduled: it is `sent`/)
  })

  test('that was accepted a moment ago is waited for', async () => {
    for (let n = 0; n < 20; n += 1) {
      const response = await service.request('/emails', {
        body: orderMail({ scheduled_at: 'in 1 hour' }),
        headers: { 'Sluice-Durability': 'buffered' },
      })
      const { id } = (await response.json()) as { id: string }
      assert.equal((await cancel(id)).status, 200)
    }
  })

  test('at a door that nobody empties is 503, to be repeated', async (t) => {
    const quiet = await createTestDatabase(t)
    const api = await startTestService(quiet, { SMTP_URL: sink.url, SLUICE_ROLES: 'api' })
    await quiet.query('alter table mail.message_content rename to away')
    const [row] = await quiet.query<{ id: string }>(
      'insert into mail.outbox (message) values ($1) returning id',
      [JSON.stringify(orderMail())],
    )
    const response = await api.request(`/emails/${row?.id}/cancel`, { method: 'POST' })
    assert.equal(response.status, 503)
    assert.ok(Number(response.headers.get('Retry-After')) > 0)
    await quiet.query('alter table mail.away rename to message_content')
  })

  test('that is nobody’s is not found', async () => {
    for (const id of [NOBODY, 'not-an-id', `${NOBODY}0`]) {
      await refused(cancel(id), 404, 'not_found', /Email not found/)
      await refused(move(id, 'in 1 hour'), 404, 'not_found', /Email not found/)
    }
  })

  test('is not moved by a body that is not understood', async () => {
    const id = await post(service, { scheduled_at: 'in 1 hour' })
    const scheduled = await readMessage(database, id)
    for (const [body, name, message] of [
      [{}, 'missing_required_field', /`scheduled_at`/],
      [{ scheduledAt: 'in 1 hour' }, 'missing_required_field', /`scheduled_at`/],
      [{ scheduled_at: 'in 1 hour', subject: 'x' }, 'validation_error', /`subject`/],
      [{ scheduled_at: null }, 'validation_error', /`scheduled_at`/],
      [{ scheduled_at: 7 }, 'validation_error', /`scheduled_at`/],
      [{ scheduled_at: 'soon' }, 'validation_error', /`scheduled_at`.*not understood/],
      [{ scheduled_at: 'in 31 days' }, 'validation_error', /`scheduled_at`.*30 days/],
      [[], 'validation_error', /body/],
    ] as const) {
      await refused(ask(`/emails/${id}`, 'PATCH', body), 422, name, message)
    }
    assert.deepEqual(await readMessage(database, id), scheduled)
    await cancel(id)
  })
})

test('of mail that is being sent each email is either canceled or sent, and its caller was told which', async () => {
  const before = sink.mails.length
  const ids = await Promise.all(
    Array.from({ length: 120 }, (_, n) => post(service, { to: `race${n}@example.net` })),
  )
  const answers = await Promise.all(ids.map(async (id) => ({ id, status: (await cancel(id)).status })))
  await eventually('all have come to an end', async () => {
    const rows = await database.query(
      "select from mail.message where id = any ($1) and status not in ('sent', 'canceled')",
      [ids],
    )
    return rows.length === 0
  })
  const sent = new Set(sink.mails.slice(before).map(sluiceIdOf))
  for (const { id, status } of answers) {
    assert.equal(sent.has(id), status === 422, `${id} was answered ${status}`)
    assert.equal((await readMessage(database, id))?.status, status === 422 ? 'sent' : 'canceled')
  }
})

test('a key of scope operate may change emails, others may not', async () => {
  const id = await post(service, { scheduled_at: 'in 1 hour' })
  for (const [scope, status] of [
    ['send', 401],
    ['read', 401],
    ['operate', 200],
  ] as const) {
    const { key } = await createKey(service.db, { name: scope, scope: scope as KeyScope })
    const headers = { Authorization: `Bearer ${key}` }
    const patch = { method: 'PATCH', body: { scheduled_at: 'in 2 hours' }, headers }
    assert.equal((await service.request(`/emails/${id}`, patch)).status, status)
    const answer = await service.request(`/emails/${id}/cancel`, { method: 'POST', headers })
    assert.equal(answer.status, status)
  }
})

test('Resend’s own client schedules, moves, cancels and lists', async () => {
  const resend = new Resend(TEST_KEY, { baseUrl: service.url ?? '' })
  const created = await resend.emails.send({
    from: 'Shop <shop@example.com>',
    to: 'client@example.net',
    subject: 'From the client',
    text: 'Hi',
    scheduledAt: 'in 1 min',
  })
  assert.equal(created.error, null)
  const id = created.data?.id ?? ''
  const scheduledAt = new Date(Date.now() + 3_600_000).toISOString()
  const updated = await resend.emails.update({ id, scheduledAt })
  assert.deepEqual(updated.data, { object: 'email', id })
  const canceled = await resend.emails.cancel(id)
  assert.deepEqual(canceled.data, { object: 'email', id })
  const listed = await resend.emails.list({ limit: 1 })
  const [email] = listed.data?.data ?? []
  assert.deepEqual(
    [listed.data?.object, email?.id, email?.last_event, email?.scheduled_at, email?.to],
    ['list', id, 'canceled', scheduledAt, ['client@example.net']],
  )
  const older = await resend.emails.list({ limit: 2, after: id })
  assert.ok(older.data?.data.every((each) => each.id < id))
  const wrong = await resend.emails.cancel(NOBODY)
  assert.equal(wrong.error?.name, 'not_found')
})
