/** From the envelope sender of our own to the bounce that comes back to it, over the whole service. */
import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import { createBounceAddresses } from '../../src/bounce-address.ts'
import { openPool } from '../../src/db/pool.ts'
import { createLog } from '../../src/log.ts'
import { readSecret } from '../../src/secret.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { post, readMessage, untilStatus } from '../support/messages.ts'
import { startTestService, type TestService } from '../support/service.ts'
import { type SmtpSink, startSmtpSink } from '../support/smtp-sink.ts'

const FORM = /^bounce\+[0-9a-f]{32}-[0-9a-f]{16}@bounces\.example\.com$/

let database: TestDatabase
let service: TestService
let sink: SmtpSink

before(async (t) => {
  const context = t as Parameters<typeof createTestDatabase>[0]
  database = await createTestDatabase(context)
  sink = await startSmtpSink(context)
  service = await startTestService(database, { SMTP_URL: sink.url })
})

async function setBounceDomain(domain: unknown, stream = 'transactional'): Promise<Response> {
  return service.request(`/streams/${stream}`, { method: 'PUT', body: { bounce_domain: domain } })
}

/** The envelope sender of a message, once it is sent. */
async function senderOf(id: string): Promise<string> {
  await untilStatus(database, id, 'sent')
  const mail = sink.mails.find(({ raw }) => raw.includes(id))
  return mail?.from ?? ''
}

/** A bounce that names the message nowhere but in the address it is sent to. */
function bounceTo(
  address: string,
  recipient: string,
  messageId = 'bounce-1@mx.example.net',
): Promise<Response> {
  const report = `Message-ID: <${messageId}>
To: <${address}>
Content-Type: multipart/report; report-type=delivery-status; boundary=b

--b
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.example.net

Final-Recipient: rfc822; ${recipient}
Action: failed
Status: 5.1.1
--b--
`
  return service.request('/webhooks/dsn', { body: report, headers: { 'Content-Type': 'message/rfc822' } })
}

test('each message of a stream with a bounce domain has a sender of its own, and others keep theirs', async () => {
  const set = await setBounceDomain('bounces.example.com', 'alerts')
  assert.equal(set.status, 200)
  assert.equal(((await set.json()) as { bounce_domain: string }).bounce_domain, 'bounces.example.com')
  const sent = async (stream: string) => senderOf(await post(service, { stream }))
  await eventually('workers know of it', async () => FORM.test(await sent('alerts')))
  const [one, other] = [await sent('alerts'), await sent('alerts')]
  assert.notEqual(one, other)
  assert.equal(await sent('transactional'), 'shop@example.com')
  const mail = sink.mails.find(({ from }) => from === one)
  assert.match(mail?.raw.toString() ?? '', /^From: Shop <shop@example\.com>\r$/m)

  await setBounceDomain(null, 'alerts')
  await eventually('and that it is gone', async () => (await sent('alerts')) === 'shop@example.com')
})

test('a bounce to that address settles its message and suppresses; a guessed one is parked', async () => {
  await setBounceDomain('bounces.example.com')
  const first = await eventually('a message with a sender of its own', async () => {
    const id = await post(service, { to: ['gone@example.net'] })
    const address = await senderOf(id)
    return FORM.test(address) && { id, address }
  })
  const second = { id: await post(service, { to: ['well@example.net'] }) }
  await untilStatus(database, second.id, 'sent')
  const guess = createBounceAddresses(Buffer.alloc(32)).of(second.id, 'bounces.example.com')

  for (const response of [
    await bounceTo(guess, 'well@example.net'),
    await bounceTo(first.address, 'gone@example.net'),
    // The same bounce by another way, and one that names somebody else.
    await bounceTo(first.address.toUpperCase(), 'gone@example.net'),
    await bounceTo(first.address, 'well@example.net', 'bounce-2@mx.example.net'),
  ]) {
    assert.equal(response.status, 200)
  }
  await untilStatus(database, first.id, 'bounced')
  await eventually('all are read', async () => {
    const rows = await database.query("select from mail.feedback where state = 'waiting'")
    return rows.length === 0
  })
  assert.deepEqual(await database.query('select endpoint, reason from mail.feedback_parked'), [
    {
      endpoint: 'dsn',
      reason: '1 of 1 could not be read: sent to a bounce address that is none of ours',
    },
  ])
  assert.equal((await readMessage(database, second.id))?.status, 'sent')
  assert.deepEqual(await database.query('select address, scope, origin from mail.suppression'), [
    { address: 'gone@example.net', scope: '*', origin: 'bounce' },
  ])
  const bounces = await database.query(
    "select recipient from mail.event where message_id = $1 and type = 'bounced' order by 1",
    [first.id],
  )
  assert.deepEqual(
    bounces.map(({ recipient }) => recipient),
    ['gone@example.net', 'well@example.net'],
  )
  await untilStatus(database, await post(service, { to: ['gone@example.net'] }), 'suppressed')
})

test('a source that asks for bounce addresses parks what only names a message', async () => {
  const strict = await service.request('/webhook-sources/dsn', {
    method: 'PUT',
    body: { kind: 'dsn', options: { requires_bounce_address: true } },
  })
  assert.equal(strict.status, 200)
  const id = await post(service, { to: ['named@example.net'] })
  await untilStatus(database, id, 'sent')
  const report = `X-Failed-Recipients: named@example.net\n\nX-Sluice-Id: ${id}\n`
  await service.request('/webhooks/dsn', { body: report })
  const parked = await eventually('the report is parked', async () => {
    const rows = await database.query('select reason from mail.feedback_parked order by id desc limit 1')
    return rows[0]?.reason?.includes('not sent to the bounce address') === true && rows
  })
  assert.equal(parked.length, 1)
  assert.equal((await readMessage(database, id))?.status, 'sent')

  await service.request('/webhook-sources/dsn', { method: 'PUT', body: { kind: 'dsn' } })
  await database.query("select mail.feedback_retry('dsn', 1000)")
  await untilStatus(database, id, 'bounced')
  await assert.rejects(
    database.query(
      `update mail.webhook_source set options = '{"requires_bounce_address": "yes"}' where name = 'dsn'`,
    ),
    /requires_bounce_address_is_true_or_false/,
  )
})

test('what is no domain is refused', async () => {
  for (const domain of [
    '',
    'Bounces.example.com',
    'example',
    'a b.example',
    'x@example.com',
    '10.0.0.1',
    'a..b',
    7,
  ]) {
    const response = await setBounceDomain(domain)
    assert.equal(response.status, 422, String(domain))
    const { message } = (await response.json()) as { message: string }
    assert.match(message, /`bounce_domain`/)
  }
  await assert.rejects(
    database.query("update mail.stream set bounce_domain = 'Example.com'"),
    /bounce_domain_is_a_domain_in_lower_case/,
  )
})

test('the key is made once, whoever asks first, and processes that start later have the same', async () => {
  const pools = [1, 2, 3, 4].map(() =>
    openPool({ url: database.url, maxConnections: 1, role: undefined, log: createLog('silent') }),
  )
  for (const { close } of pools) database.beforeDrop(close)
  const keys = await Promise.all(pools.map(({ db }) => readSecret(db, 'race')))
  assert.equal(new Set(keys.map((key) => key.toString('hex'))).size, 1)
  assert.equal(keys[0]?.length, 32)
})
