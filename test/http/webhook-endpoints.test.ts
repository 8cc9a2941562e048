/** Resend's own SDK against a listening service, and what it does not know of. */
import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import { Resend, type WebhookEvent } from 'resend'
import { Webhook } from 'standardwebhooks'
import { createKey } from '../../src/keys/keys.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { post } from '../support/messages.ts'
import { startTestService, TEST_KEY, type TestService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'
import { startWebhookReceiver, type WebhookReceiver } from '../support/webhook-receiver.ts'

let database: TestDatabase
let service: TestService
let receiver: WebhookReceiver
let resend: Resend
let answer = 200

before(async (t) => {
  const context = t as Parameters<typeof createTestDatabase>[0]
  const sink = await startSmtpSink(context)
  receiver = await startWebhookReceiver(context, () => answer)
  database = await createTestDatabase(context)
  service = await startTestService(database, { SMTP_URL: sink.url, SLUICE_WEBHOOK_HOSTS: receiver.host })
  resend = new Resend(TEST_KEY, { baseUrl: service.url ?? '' })
})

function dataOf<T>({ data, error }: { data: T | null; error: unknown }): T {
  assert.equal(error, null, JSON.stringify(error))
  assert.ok(data)
  return data
}

async function create(
  endpoint: string,
  events: WebhookEvent[],
): Promise<{ id: string; signing_secret: string }> {
  return dataOf(await resend.webhooks.create({ endpoint, events }))
}

test('create, get, list, update, rotate and remove, as the SDK calls them', async () => {
  const made = await create('https://app.example.com/hook', ['email.delivered', 'email.bounced'])
  assert.match(made.signing_secret, /^whsec_[A-Za-z0-9+/]{43}=$/)
  const shown = dataOf(await resend.webhooks.get(made.id))
  assert.deepEqual(
    [shown.object, shown.status, shown.endpoint, shown.events],
    ['webhook', 'enabled', 'https://app.example.com/hook', ['email.delivered', 'email.bounced']],
  )
  assert.equal(JSON.stringify(shown).includes('whsec_'), false, 'a secret is shown once')

  const other = await create('https://app.example.com/other', ['email.sent'])
  const first = dataOf(await resend.webhooks.list({ limit: 1 }))
  assert.deepEqual([first.has_more, first.data.map(({ id }) => id)], [true, [other.id]])
  const second = dataOf(await resend.webhooks.list({ limit: 1, after: other.id }))
  assert.deepEqual([second.has_more, second.data.map(({ id }) => id)], [false, [made.id]])

  dataOf(await resend.webhooks.update(made.id, { status: 'disabled', events: ['email.opened'] }))
  const changed = dataOf(await resend.webhooks.get(made.id))
  assert.deepEqual([changed.status, changed.events], ['disabled', ['email.opened']])
  dataOf(await resend.webhooks.update(made.id, { status: 'enabled', endpoint: 'https://app.example.com/2' }))
  const again = dataOf(await resend.webhooks.get(made.id))
  assert.deepEqual([again.status, again.endpoint], ['enabled', 'https://app.example.com/2'])

  const rotated = dataOf(await resend.webhooks.rotateSigningSecret(made.id))
  assert.notEqual(rotated.signing_secret, made.signing_secret)
  for (const { id } of [made, other]) assert.equal(dataOf(await resend.webhooks.remove(id)).deleted, true)
  assert.equal((await resend.webhooks.get(made.id)).error?.name, 'not_found')
})

test('what an endpoint was told, each attempt, and a replay', async () => {
  answer = 503
  const { id, signing_secret: secret } = await create(receiver.url, ['email.sent'])
  const email = await post(service)
  await receiver.waitFor(1)
  const event = await eventually('the attempt is on record', async () => {
    const [first] = dataOf(await resend.webhooks.events.list({ webhookId: id })).data
    return first?.status === 'attempting' && first
  })
  assert.equal(event.type, 'email.sent')
  const shown = dataOf(await resend.webhooks.events.get({ webhookId: id, eventId: event.id }))
  assert.ok(shown.next_attempt_at && Date.parse(shown.next_attempt_at) > Date.now() - 10_000)
  assert.equal((shown.payload.data as { email_id: string }).email_id, email)
  const [attempt] = dataOf(
    await resend.webhooks.events.attempts.list({ webhookId: id, eventId: event.id }),
  ).data
  assert.deepEqual([attempt?.http_status_code, attempt?.response], [503, 'noted'])

  answer = 200
  dataOf(await resend.webhooks.events.replay({ webhookId: id, eventId: event.id }))
  const webhook = (await receiver.waitFor(2))[1]
  assert.ok(webhook)
  const header = (name: string) => webhook.headers[name] ?? ''
  resend.webhooks.verify({
    payload: webhook.body,
    headers: {
      id: header('svix-id'),
      timestamp: header('svix-timestamp'),
      signature: header('svix-signature'),
    },
    webhookSecret: secret,
  })
  new Webhook(secret).verify(webhook.body, webhook.headers)
  assert.equal(header('webhook-id'), event.id)
  await eventually('it is told', async () => {
    const [first] = dataOf(await resend.webhooks.events.list({ webhookId: id })).data
    return first?.status === 'success'
  })
  const replay = await service.request(`/webhooks/${id}/events/replay`, {
    body: { since: new Date(Date.now() - 3_600_000).toISOString() },
  })
  assert.deepEqual(await replay.json(), { object: 'webhook', id, replayed: 0 })
})

for (const [body, message] of [
  [{}, /Missing `endpoint`/],
  [{ endpoint: 'http://app.example.com/' }, /not https:/],
  [{ endpoint: 'https://192.168.1.1/' }, /not public/],
  [{ endpoint: 'https://app.example.com/', events: ['email.received'] }, /email\.sent/],
  [{ endpoint: 'https://app.example.com/', events: [] }, /events/],
  [{ endpoint: 'https://app.example.com/ x' }, /Refused|not/],
  [{ endpoint: 'https://app.example.com/', secret: 'x' }, /Unknown field `secret`/],
] as const) {
  test(`${JSON.stringify(body)} makes no endpoint`, async () => {
    const response = await service.request('/webhooks', { body })
    const { message: said } = (await response.json()) as { message: string }
    assert.equal(response.status, 422, said)
    assert.match(said, message)
  })
}

test('ids that are none, and paths of providers, are not found', async () => {
  const unknown = '01995a00-0000-7000-8000-000000000001'
  for (const path of [
    `/webhooks/${unknown}`,
    '/webhooks/nothing',
    `/webhooks/${unknown}/events`,
    `/webhooks/${unknown}/events/msg_${'0'.repeat(32)}`,
    `/webhooks/${unknown}/events/nothing`,
  ]) {
    assert.equal((await service.request(path)).status, 404, path)
  }
  for (const path of [
    `/webhooks/${unknown}/events/replay`,
    `/webhooks/${unknown}/signing-secret/rotate`,
    '/webhooks/ses/mine',
  ]) {
    const response = await service.request(path, { body: { since: '2026-11-21T00:00:00Z' } })
    assert.equal(response.status, 404, path)
  }
  assert.equal((await service.request('/webhooks?after=x')).status, 422)
})

test('an operator may switch an endpoint off and on; where events go is not theirs', async () => {
  const { id } = await create('https://app.example.com/hook', ['email.sent'])
  const { key } = await createKey(service.db, { name: 'operator', scope: 'operate' })
  const headers = { Authorization: `Bearer ${key}` }
  const patch = (body: object) =>
    service.request(`/webhooks/${id}`, { method: 'PATCH', body, headers }).then(({ status }) => status)
  assert.deepEqual([await patch({ status: 'disabled' }), await patch({ status: 'enabled' })], [200, 200])
  assert.equal(await patch({ endpoint: 'https://evil.example.com/' }), 401)
  assert.equal((await service.request('/webhooks', { body: {}, headers })).status, 401)
  assert.equal((await service.request(`/webhooks/${id}`, { method: 'DELETE', headers })).status, 401)
  const rotate = await service.request(`/webhooks/${id}/signing-secret/rotate`, { method: 'POST', headers })
  assert.equal(rotate.status, 401)
  assert.equal((await fetch(new URL(`/webhooks/${id}`, service.url ?? ''))).status, 401)
})
