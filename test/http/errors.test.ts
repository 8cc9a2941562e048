import assert from 'node:assert/strict'
import { once } from 'node:events'
import { Agent, request as httpRequest, type IncomingMessage } from 'node:http'
import { text } from 'node:stream/consumers'
import { before, describe, test } from 'node:test'
import { Client } from 'pg'
import { readCatalog } from '../../src/catalog.ts'
import { MACHINE_CLOCK } from '../../src/database-clock.ts'
import { createApp } from '../../src/http/app.ts'
import { Keyring } from '../../src/keys/keyring.ts'
import { createLog } from '../../src/log.ts'
import { createTestDatabase, startTestPostgres, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { countLockWaits } from '../support/lock-waits.ts'
import { orderMail, startTestService, TEST_KEY, type TestService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'

const MAX_BODY_BYTES = 200_000

let database: TestDatabase
let service: TestService

before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  service = await startTestService(database, {
    SLUICE_ROLES: 'api',
    SLUICE_MAX_BODY_BYTES: String(MAX_BODY_BYTES),
  })
})

type ErrorBody = { statusCode: number; name: string; message: string }
type Case = {
  readonly field: string
  readonly reason: RegExp
  readonly name?: string
  readonly changes: Record<string, unknown>
}

const FORBIDDEN_HEADERS = [
  ...['From', 'To', 'Cc', 'Bcc', 'Sender', 'Return-Path', 'Received', 'DKIM-Signature', 'Content-Type'],
  ...['Content-Transfer-Encoding', 'MIME-Version', 'Message-ID', 'Date', 'X-Sluice-Id', 'bCC'],
]

const BAD: readonly Case[] = [
  { field: 'replyTo', reason: /no such field.*`reply_to`/, changes: { replyTo: 'a@example.com' } },
  { field: 'from', reason: /required/, name: 'missing_required_field', changes: { from: undefined } },
  { field: 'to', reason: /required/, name: 'missing_required_field', changes: { to: undefined } },
  { field: 'subject', reason: /required/, name: 'missing_required_field', changes: { subject: undefined } },
  {
    field: 'html',
    reason: /needs content/,
    name: 'missing_required_field',
    changes: { html: undefined, text: undefined },
  },
  { field: 'to', reason: /it is a number|it is 7/, changes: { to: 7 } },
  { field: 'to[1]', reason: /it is 7/, changes: { to: ['ann@example.net', 7] } },
  { field: 'html', reason: /it is a list/, changes: { html: [] } },
  { field: 'cc', reason: /null/, changes: { cc: null } },
  { field: 'priority', reason: /it is 10/, changes: { priority: 10 } },
  { field: 'metadata.order', reason: /it is 7/, changes: { metadata: { order: 7 } } },
  { field: 'subject', reason: /NUL/, changes: { subject: 'Your\0order' } },
  { field: 'text', reason: /NUL/, changes: { text: '\0' } },
  { field: 'html', reason: /surrogate/, changes: { html: '<p>\ud83d</p>' } },
  { field: 'metadata.note', reason: /surrogate/, changes: { metadata: { note: '\udc00' } } },
  { field: 'subject', reason: /line break/, changes: { subject: 'Order\r\nBcc: eve@example.com' } },
  { field: 'headers.X-Order', reason: /line break/, changes: { headers: { 'X-Order': '7\nBcc: e@e.e' } } },
  { field: 'from', reason: /line break/, changes: { from: 'Shop\r\n <shop@example.com>' } },
  { field: 'to[0]', reason: /no `@`/, changes: { to: ['ann'] } },
  { field: 'to[1]', reason: /more than one `@`/, changes: { to: ['a@example.com', 'a@b@example.com'] } },
  { field: 'bcc', reason: /single address/, changes: { bcc: 'a@example.com, b@example.com' } },
  { field: 'to', reason: /more than 64 characters/, changes: { to: `${'a'.repeat(65)}@example.com` } },
  {
    field: 'to',
    reason: /longer than 254 characters/,
    changes: { to: `${'a'.repeat(64)}@${`${'b'.repeat(60)}.`.repeat(3)}${'c'.repeat(12)}` },
  },
  {
    field: 'to',
    reason: /at most 50/,
    changes: { to: Array.from({ length: 51 }, (_, n) => `n${n}@example.com`) },
  },
  {
    field: 'bcc',
    reason: /51 addresses; use at most 50/,
    changes: {
      to: Array.from({ length: 25 }, (_, n) => `n${n}@example.com`),
      cc: Array.from({ length: 25 }, (_, n) => `c${n}@example.com`),
      bcc: ['b@example.com'],
    },
  },
  { field: 'stream', reason: /no stream `nowhere`/, changes: { stream: 'nowhere' } },
  ...FORBIDDEN_HEADERS.map((header) => ({
    field: `headers.${header}`,
    reason: /use another name|use the field/,
    changes: { headers: { [header]: 'x' } },
  })),
]

describe('bad input is refused with the field’s name', () => {
  for (const { field, reason, name = 'validation_error', changes } of BAD) {
    test(`${field}: ${reason.source}, over REST and as a row of SQL alike`, async () => {
      const body = orderMail(changes)
      const response = await service.request('/emails', { body })
      const error = await errorOf(response, 422, name)
      assert.ok(error.message.includes(`\`${field}\``), error.message)
      assert.match(error.message, reason)
      assert.equal(await reasonOfRow(JSON.stringify(body)), error.message)
    })
  }

  test('nothing of it is stored', async () => {
    const rows = await database.query("select 1 from mail.message where source like 'api key%'")
    assert.deepEqual(rows, [])
  })

  test('a body that is JSON but no object', async () => {
    for (const body of ['null', '7', '"mail"', '[]', `[${JSON.stringify(orderMail())}]`]) {
      const error = await errorOf(await service.request('/emails', { body }), 422, 'validation_error')
      assert.match(error.message, /`message`.*JSON object/)
      assert.equal(await reasonOfRow(body), error.message)
    }
  })

  test('broken JSON, an empty body and another type are 400', async () => {
    for (const body of ['{"from":', '', '{"a":1}}', `${JSON.stringify(orderMail())},`, '{"a":\u0001}']) {
      await errorOf(await service.request('/emails', { body, method: 'POST' }), 400, 'validation_error')
    }
    const form = { body: 'from=a', headers: { 'Content-Type': 'application/x-www-form-urlencoded' } }
    const error = await errorOf(await service.request('/emails', form), 400, 'validation_error')
    assert.match(error.message, /Content-Type: application\/json/)
  })

  test('JSON nested without end is refused like any other', async () => {
    const body = `{"deep":${'['.repeat(90_000)}${']'.repeat(90_000)}}`
    const error = await errorOf(await service.request('/emails', { body }), 400, 'validation_error')
    assert.match(error.message, /more than 64 levels/)
  })

  test('a header of ours with a value that means nothing', async () => {
    const wish = { body: orderMail(), headers: { 'Sluice-Durability': 'maybe' } }
    const error = await errorOf(await service.request('/emails', wish), 422, 'validation_error')
    assert.match(error.message, /`Sluice-Durability`/)
    for (const key of ['', 'k'.repeat(257)]) {
      const keyed = { body: orderMail(), headers: { 'Idempotency-Key': key } }
      await errorOf(await service.request('/emails', keyed), 400, 'invalid_idempotency_key')
    }
  })

  test('a path that is none', async () => {
    await errorOf(await service.request('/nothing'), 404, 'not_found')
    await errorOf(await service.request('/emails/00000000-0000-7000-8000-000000000000'), 404, 'not_found')
    await errorOf(await service.request('/emails/not-an-id'), 404, 'not_found')
  })
})

test('a connection is kept for longer than balancers keep theirs', async () => {
  const answer = await service.request('/healthz')
  assert.equal(answer.headers.get('Keep-Alive'), 'timeout=65')
})

describe('a body over the limit', () => {
  for (const framing of ['fixed', 'chunked'] as const) {
    test(`is 413 with ${framing} length, and the connection serves the next request`, async (t) => {
      const agent = new Agent({ keepAlive: true, maxSockets: 1 })
      t.after(() => agent.destroy())
      const large = JSON.stringify(orderMail({ html: 'x'.repeat(MAX_BODY_BYTES) }))
      const refused = await post(agent, large, framing)
      assert.equal(refused.status, 413)
      const error = JSON.parse(refused.body) as ErrorBody
      assert.deepEqual([error.statusCode, error.name], [413, 'payload_too_large'])
      assert.match(error.message, /200000 bytes.*SLUICE_MAX_BODY_BYTES/)
      const next = await post(agent, JSON.stringify(orderMail()), framing)
      assert.deepEqual([next.status, next.isReused], [200, true])
    })
  }

  test('by one byte is over, and at the limit is not', async () => {
    const empty = JSON.stringify(orderMail({ html: '' })).length
    const exact = JSON.stringify(orderMail({ html: 'x'.repeat(MAX_BODY_BYTES - empty) }))
    assert.equal(exact.length, MAX_BODY_BYTES)
    assert.equal((await service.request('/emails', { body: exact })).status, 200)
    await errorOf(await service.request('/emails', { body: `${exact} ` }), 413, 'payload_too_large')
  })
})

test('a fault of our own is 500 and says nothing of the database', async () => {
  const log = createLog('silent')
  const app = createApp({
    db: service.db,
    log,
    clock: MACHINE_CLOCK,
    keyring: new Keyring(service.db, TEST_KEY),
    catalog: { current: await readCatalog(service.db) },
    maxBodyBytes: MAX_BODY_BYTES,
    acceptTimeoutMs: 1_000,
    accept: () => Promise.reject(new Error('this process cannot do it')),
    acceptMany: () => Promise.reject(new Error('this process cannot do it')),
    bulk: { maxBytes: MAX_BODY_BYTES, slots: 1, slotWaitMs: 0, silenceMs: 1_000, totalMs: 1_000 },
    admit: () => undefined,
    checkTemplate: async () => undefined,
    previewTemplate: () => Promise.reject(new Error('this process cannot do it')),
    receiveWebhook: async () => 'no_such_endpoint',
    readUnsubscribeToken: () => undefined,
    unsubscribe: () => Promise.reject(new Error('this process cannot do it')),
    hasInbox: false,
    stopping: new AbortController().signal,
    publicUrl: undefined,
    metrics: 'elsewhere',
    webhookHosts: [],
    testAlertTarget: async () => undefined,
  })
  const response = await app.request('/emails', {
    method: 'POST',
    headers: { Authorization: `Bearer ${TEST_KEY}`, 'Content-Type': 'application/json' },
    body: JSON.stringify(orderMail()),
  })
  await errorOf(response, 500, 'application_error')
})

test('the database away is 503 with Retry-After, and the service works again by itself', async (t) => {
  const sink = await startSmtpSink(t)
  const server = await startTestPostgres(t)
  const stops: (() => Promise<unknown>)[] = []
  const away = await startTestService(
    { url: server.url, query: database.query, beforeDrop: (close) => stops.push(close) },
    { SMTP_URL: sink.url, SLUICE_ACCEPT_TIMEOUT_MS: '2000' },
  )
  try {
    const before = await away.request('/emails', { body: orderMail({ subject: 'Before' }) })
    assert.equal(before.status, 200)
    await sink.waitForMails(1)

    // A mover in the middle of a statement, and a caller who waits for it, when the server dies.
    const blocker = new Client({ connectionString: server.url })
    blocker.on('error', () => undefined)
    await blocker.connect()
    await blocker.query('begin')
    await blocker.query('lock table mail.message_content in share mode')
    const inFlight = away.request('/emails', { body: orderMail({ subject: 'In flight' }) })
    await eventually('a mover that waits for the lock', async () => (await countLockWaits(blocker)) > 0)

    process.kill(server.postmasterPid(), 'SIGKILL')
    const refused = await eventually('a refusal', async () => {
      const response = await away.request('/emails', { body: orderMail({ subject: 'During' }) })
      return response.status === 200 ? undefined : response
    })
    assert.ok(Number(refused.headers.get('Retry-After')) > 0)
    assert.equal(refused.headers.get('Sluice-Durability'), null)
    await errorOf(refused, 503, 'service_unavailable')
    const answer = await inFlight
    // Unless the server was back within a moment: that is waited out.
    if (answer.status !== 200) await errorOf(answer, 503, 'service_unavailable')
    else await eventually('its mail', async () => sink.mails.some(({ raw }) => raw.includes('In flight')))
    const id = await eventually('an acceptance', async () => {
      const response = await away.request('/emails', { body: orderMail({ subject: 'After' }) })
      if (response.status !== 200) assert.equal(response.status, 503)
      return response.status === 200 && ((await response.json()) as { id: string }).id
    })
    await eventually('the mail', async () => sink.mails.some(({ raw }) => raw.includes(id)))
    assert.equal((await away.request('/readyz')).status, 200)
  } finally {
    for (const stop of stops) await stop()
  }
})

async function errorOf(response: Response, status: number, name: string): Promise<ErrorBody> {
  const body = (await response.json()) as ErrorBody
  assert.deepEqual([response.status, body.statusCode, body.name], [status, status, name], body.message)
  assert.deepEqual(Object.keys(body).sort(), ['message', 'name', 'statusCode'])
  return body
}

/** What the dead letter of this row says, once the mover has met it. */
async function reasonOfRow(message: string): Promise<string> {
  const [row] = await database.query<{ id: string }>(
    'insert into mail.intake (message) values ($1) returning id',
    [message],
  )
  return eventually('a dead letter', async () => {
    const [letter] = await database.query<{ reason: string }>(
      'select reason from mail.dead_letter where message_id = $1',
      [row?.id],
    )
    return letter?.reason
  })
}

async function post(agent: Agent, body: string, framing: 'fixed' | 'chunked') {
  const request = httpRequest(new URL('/emails', service.url), {
    agent,
    method: 'POST',
    headers: {
      Authorization: `Bearer ${TEST_KEY}`,
      'Content-Type': 'application/json',
      ...(framing === 'fixed' ? { 'Content-Length': Buffer.byteLength(body) } : {}),
    },
  })
  const answered = once(request, 'response') as Promise<[IncomingMessage]>
  request.end(body)
  const [response] = await answered
  return { status: response.statusCode, body: await text(response), isReused: request.reusedSocket }
}
