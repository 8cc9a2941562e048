/** A bounce, a complaint and an unsubscribe as a team meets them: what stops, and how its app hears of it. */
import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import { Webhook } from 'standardwebhooks'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { post, untilStatus } from '../support/messages.ts'
import { startTestService, type TestService } from '../support/service.ts'
import { type SmtpSink, startSmtpSink } from '../support/smtp-sink.ts'
import { headerOf, sluiceIdOf } from '../support/sunk-mail.ts'
import { startWebhookReceiver, type WebhookReceiver } from '../support/webhook-receiver.ts'
import { type Call, SENDGRID_SECRET, STANDARD_SECRET, sendGridCall, standardCall } from './proofs.ts'

let database: TestDatabase
let service: TestService
let sink: SmtpSink
let app: WebhookReceiver
let signingSecret: string

before(async (t) => {
  const context = t as Parameters<typeof createTestDatabase>[0]
  app = await startWebhookReceiver(context)
  sink = await startSmtpSink(context)
  database = await createTestDatabase(context)
  service = await startTestService(database, {
    SMTP_URL: sink.url,
    SLUICE_PUBLIC_URL: 'https://mail.example.com',
    SLUICE_WEBHOOK_HOSTS: app.host,
    SENDGRID_WEBHOOK_KEY: SENDGRID_SECRET,
    RESEND_WEBHOOK_SECRET: STANDARD_SECRET,
  })
  await putSource('sendgrid', { kind: 'sendgrid', secrets_env: 'SENDGRID_WEBHOOK_KEY' })
  await putSource('resend', { kind: 'resend', secrets_env: 'RESEND_WEBHOOK_SECRET' })
  const made = await service.request('/webhooks', { body: { endpoint: app.url } })
  assert.equal(made.status, 200)
  signingSecret = ((await made.json()) as { signing_secret: string }).signing_secret
})

async function putSource(name: string, body: object): Promise<void> {
  const response = await service.request(`/webhook-sources/${name}`, { method: 'PUT', body })
  assert.equal(response.status, 200, await response.text())
}

async function send(to: string, stream: string): Promise<string> {
  const id = await post(service, { to: [to], stream })
  await untilStatus(database, id, 'sent')
  return id
}

/** As a provider calls us: without a key. */
async function tell(path: string, { headers, body }: Call): Promise<number> {
  const response = await fetch(new URL(path, service.url), {
    method: 'POST',
    headers,
    body: new Uint8Array(body),
  })
  return response.status
}

/** Asserts in which streams the next mail to this address goes out, and in which it does not. */
async function assertNext(address: string, wanted: Readonly<Record<string, 'sent' | 'suppressed'>>) {
  for (const [stream, status] of Object.entries(wanted)) {
    const id = await post(service, { to: [address], stream })
    await untilStatus(database, id, status)
    assert.equal(
      sink.mails.some((mail) => sluiceIdOf(mail) === id),
      status === 'sent',
      `${stream}: the mail itself`,
    )
  }
}

/** Both ways in which the app hears: its webhook, signed, and the feed for SQL users. */
async function assertHeard(id: string, type: string, recipient: string): Promise<Record<string, unknown>> {
  const heard = await eventually(`the app hears that ${id} is ${type}`, async () => {
    const told = app.received.filter(
      ({ event }) => event.type === `email.${type}` && event.data.email_id === id,
    )
    return told.length > 0 && told
  })
  assert.equal(heard.length, 1)
  const [webhook] = heard
  assert.ok(webhook)
  new Webhook(signingSecret).verify(webhook.body, webhook.headers)
  assert.equal(webhook.event.data.recipient, recipient)
  const rows = await eventually('the feed tells it', async () => {
    const read = await database.query(
      'select recipient from mail.read_events() where message_id = $1 and type = $2',
      [id, type],
    )
    return read.length > 0 && read
  })
  assert.deepEqual(rows, [{ recipient }])
  return webhook.event.data as Record<string, unknown>
}

test('a hard bounce, signed as SendGrid signs: no more mail in any stream', async () => {
  const address = 'gone@example.net'
  const id = await send(address, 'marketing')
  const body = JSON.stringify([
    {
      ...{ event: 'bounce', type: 'bounce', status: '5.1.1', reason: '550 5.1.1 <gone@example.net> unknown' },
      ...{
        email: address,
        sluice_id: id,
        sg_event_id: 'bounce-1',
        timestamp: Math.floor(Date.now() / 1_000),
      },
    },
  ])
  const signed = sendGridCall(body, Date.now())
  const forged = { ...signed, body: Buffer.from(body.replace(address, 'boss@example.net')) }
  assert.equal(await tell('/webhooks/sendgrid/sendgrid', forged), 401)
  for (let time = 0; time < 3; time++) assert.equal(await tell('/webhooks/sendgrid/sendgrid', signed), 200)
  const { bounce } = await assertHeard(id, 'bounced', address)
  assert.partialDeepStrictEqual(bounce, { type: 'Permanent', code: '5.1.1' })
  await assertNext(address, { marketing: 'suppressed', transactional: 'suppressed', alerts: 'suppressed' })
})

test('a complaint, signed as Svix signs: no more mail in any stream', async () => {
  const address = 'angry@example.net'
  const id = await send(address, 'marketing')
  const body = JSON.stringify({
    type: 'email.complained',
    created_at: new Date().toISOString(),
    data: { email_id: 'theirs', to: [address], tags: { sluice_id: id } },
  })
  const call = standardCall(body, Date.now(), { id: 'msg_complaint' })
  assert.deepEqual(
    [await tell('/webhooks/resend/resend', call), await tell('/webhooks/resend/resend', call)],
    [200, 200],
  )
  await assertHeard(id, 'complained', address)
  await assertNext(address, { marketing: 'suppressed', transactional: 'suppressed', alerts: 'suppressed' })
})

test('an unsubscribe by one click: no more mail in that stream, and the receipts still come', async () => {
  const address = 'leaver@example.net'
  const id = await send(address, 'marketing')
  const mail = sink.mails.find((each) => sluiceIdOf(each) === id)
  assert.ok(mail)
  assert.equal(headerOf(mail, 'List-Unsubscribe-Post'), 'List-Unsubscribe=One-Click')
  const [, path] =
    /<https:\/\/mail\.example\.com(\/u\/[\w-]+)>/.exec(headerOf(mail, 'List-Unsubscribe') ?? '') ?? []
  assert.ok(path)
  assert.equal((await fetch(new URL(path, service.url))).status, 200)
  await assertNext(address, { marketing: 'sent' })
  const click = await fetch(new URL(path, service.url), {
    method: 'POST',
    redirect: 'manual',
    body: new URLSearchParams({ 'List-Unsubscribe': 'One-Click' }),
  })
  assert.equal(click.status, 200)
  await assertHeard(id, 'unsubscribed', address)
  await assertNext(address, { marketing: 'suppressed', transactional: 'sent', alerts: 'sent' })
})

test('of each mail that was stopped the app hears once', async () => {
  const idsOf = (from: string) => database.query<{ id: string }>(`select ${from} order by 1`)
  const stopped = await idsOf("id from mail.message where status = 'suppressed'")
  assert.equal(stopped.length, 7)
  // All events of one message come in one transaction, so that what is told of it is decided together.
  await eventually('all are told of', async () => {
    const told = await idsOf(
      "distinct message_id as id from mail.webhook_delivery where type = 'email.suppressed'",
    )
    return told.length === stopped.length
  })
  const told = await idsOf("message_id as id from mail.webhook_delivery where type = 'email.suppressed'")
  assert.deepEqual(told, stopped)
})

test('nobody else was stopped', async () => {
  await assertNext('boss@example.net', { marketing: 'sent', transactional: 'sent' })
})
