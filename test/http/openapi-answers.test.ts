/** What the service really answers, against the schemas that the document is made of. */
import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import { z } from 'zod'
import { OPERATIONS } from '../../src/http/openapi/operations.ts'
import { errorSchema } from '../../src/http/openapi/problem-answers.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { untilStatus } from '../support/messages.ts'
import { startTestService, type TestService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'
import { startWebhookReceiver, type WebhookReceiver } from '../support/webhook-receiver.ts'

let database: TestDatabase
let service: TestService
let receiver: WebhookReceiver
let answer = 200
const asked = new Set<string>()

before(async (t) => {
  const context = t as Parameters<typeof createTestDatabase>[0]
  const sink = await startSmtpSink(context)
  receiver = await startWebhookReceiver(context, () => answer)
  database = await createTestDatabase(context)
  service = await startTestService(database, {
    SMTP_URL: sink.url,
    SLUICE_WEBHOOK_HOSTS: receiver.host,
    OTHER_SMTP_URL: sink.url,
    POSTMARK_LOGIN: 'postmark:a-long-enough-password',
  })
})

type Asking = {
  readonly params?: Readonly<Record<string, string>>
  readonly query?: string
  readonly body?: unknown
  readonly headers?: Readonly<Record<string, string>>
}

/** Asks as the document says, and holds the answer to its schema: no field more, no field less. */
async function ask<T = Record<string, unknown>>(id: string, asking: Asking = {}): Promise<T> {
  const { params = {}, query = '', body, headers = {} } = asking
  const operation = OPERATIONS.find((each) => each.id === id)
  assert.ok(operation, `there is no operation ${id}`)
  const path = operation.path.replaceAll(/:(\w+)/g, (_, name: string) => params[name] ?? '')
  const { method, answer } = operation
  const response = await service.request(`${path}${query}`, { method, body, headers })
  const text = await response.text()
  assert.equal(response.status, answer.status ?? 200, `${id}: ${text}`)
  const value = JSON.parse(text) as T
  const fits = answer.schema?.safeParse(value)
  assert.ok(fits?.success, `${id} answers ${text}\n${fits?.error && z.prettifyError(fits.error)}`)
  asked.add(id)
  return value
}

const MAIL = { from: 'shop@example.com', to: 'ann@example.com', subject: 'Hi', html: '<p>Hi</p>' }

test('about emails', async () => {
  const attachments = [{ filename: 'a.txt', content: 'SGVsbG8=' }]
  const headers = { 'Sluice-Durability': 'buffered' }
  const { id } = await ask<{ id: string }>('sendEmail', {
    body: { ...MAIL, attachments, tags: [{ name: 'a', value: 'b' }], metadata: { a: 'b' } },
    headers,
  })
  await eventually('it is there', async () => (await service.request(`/emails/${id}`)).status === 200)
  await ask('getEmail', { params: { id } })
  await untilStatus(database, id, 'sent')
  await ask('getEmail', { params: { id } })
  await ask('listEmails')
  await ask('sendBatch', { body: [MAIL] })
  await ask('sendBatch', { body: [MAIL, {}], headers: { 'x-batch-validation': 'permissive' } })
  const { to, ...message } = MAIL
  await ask('sendBulk', { body: { message, recipients: [{ to }] } })
  const recipients = [{ to }, { to: 'nobody' }]
  await ask('sendBulk', { body: { message, recipients }, headers: { 'x-batch-validation': 'permissive' } })
  const later = await ask<{ id: string }>('sendEmail', { body: { ...MAIL, scheduled_at: 'in 1 hour' } })
  await ask('rescheduleEmail', { params: later, body: { scheduled_at: 'in 2 hours' } })
  await ask('getEmail', { params: later })
  await ask('cancelEmail', { params: later })
})

test('about templates', async () => {
  await ask('createTemplate', {
    body: {
      ...{ name: 'welcome', html: 'Hello {{ name }}', subject: 'Hi', from: 'a@example.com' },
      variables: [{ key: 'points', type: 'number', fallback_value: 5 }],
    },
  })
  const params = { reference: 'welcome' }
  await ask('getTemplate', { params })
  await ask('publishTemplate', { params })
  await ask('changeTemplate', { params, body: { text: 'Hello', reply_to: ['b@example.com'] } })
  await ask('getTemplate', { params, query: '?version=1' })
  await ask('getTemplate', { params })
  await ask('previewTemplate', { params, body: {} })
  await ask('publishTemplate', { params })
  await ask('rollBackTemplate', { params, body: { version: 1 } })
  await ask('listTemplateVersions', { params })
  await ask('duplicateTemplate', { params })
  await ask('listTemplates', { query: '?limit=1' })
  await ask('removeTemplate', { params: { reference: 'welcome (copy)' } })
})

test('about suppressions', async () => {
  const { id } = await ask<{ id: string }>('addSuppression', {
    body: { email: 'a@example.com', expires_at: '2099-01-01T00:00:00Z' },
  })
  await ask('addSuppressions', { body: { emails: ['b@example.com'] } })
  await ask('listSuppressions', { query: '?limit=1&origin=manual' })
  await ask('getSuppression', { params: { idOrEmail: id } })
  await ask('removeSuppression', { params: { idOrEmail: 'a@example.com' } })
  await ask('removeSuppressions', { body: { emails: ['b@example.com', 'c@example.com'] } })
  await ask('erase', { body: { address: 'b@example.com' } })
  const headers = { 'Content-Type': 'text/csv' }
  await ask('importSuppressions', { body: 'address\nd@example.com\nnobody\n', headers })
})

test('about dead letters', async () => {
  await database.query(`insert into mail.outbox (message) values ('{"from":"a@example.com"}')`)
  await database.query(
    `insert into mail.outbox (message) values ('{"from":"a@example.com","to":"b@example.com","template":{"id":"none"}}')`,
  )
  const letters = await eventually('both are dead', async () => {
    const { data } = await ask<{ data: { message_id: string }[] }>('listDeadLetters')
    return data.length === 2 && data
  })
  await ask('summariseDeadLetters')
  await ask('discardDeadLetters', { body: { id: letters[0]?.message_id } })
  await ask('retryDeadLetters', { body: { filter: { code: 'invalid_message' }, max: 5 } })
  // What could not be read shows as little as there is of it.
  for (const { message_id: id } of letters) await ask('getEmail', { params: { id } })
  await ask('listEmails')
})

test('about streams and providers', async () => {
  const name = 'digests'
  await ask('saveStream', { params: { name }, body: { priority: 8 } })
  await ask('pauseStream', { params: { name } })
  await ask('listStreams')
  await ask('resumeStream', { params: { name } })
  await ask('saveProvider', {
    params: { name: 'other' },
    body: {
      transport: 'smtp',
      credentials_env: 'OTHER_SMTP_URL',
      buckets: [{ name: 'second', quota: 5.5 }],
    },
  })
  await ask('pauseProvider', { params: { name: 'other' } })
  await ask('listProviders')
  await ask('resumeProvider', { params: { name: 'other' } })
})

test('about statistics', async () => {
  await eventually('something is counted', async () => {
    const { data } = await ask<{ data: unknown[] }>('getStats')
    return data.length > 0
  })
  await ask('getStats', { query: '?group_by=stream,provider,template,template_version,domain' })
  await ask('getStats', { query: '?group_by=tag,day' })
  await ask('getScale')
})

test('about keys', async () => {
  const body = { name: 'app', scope: 'send', streams: ['marketing'], rate_limit_per_s: 5 }
  const { id } = await ask<{ id: string }>('createApiKey', { body })
  await ask('getApiKey', { params: { id } })
  await ask('listApiKeys', { query: '?limit=5' })
  await ask('changeApiKey', { params: { id }, body: { expires_at: '2099-01-01T00:00:00Z' } })
  await ask('rotateApiKey', { params: { id }, body: {} })
  await ask('revokeApiKey', { params: { id } })
})

test('about webhooks', async () => {
  const name = 'told'
  await ask('saveWebhookSource', {
    params: { name },
    body: { kind: 'postmark', secrets_env: 'POSTMARK_LOGIN' },
  })
  const login = Buffer.from('postmark:a-long-enough-password').toString('base64')
  const headers = { Authorization: `Basic ${login}` }
  const body = { RecordType: 'Delivery', MessageID: 'x', Recipient: 'a@example.com' }
  await ask('receivePostmark', { params: { endpoint: name }, body, headers })
  const report = 'Subject: Returned mail\r\n\r\nIt came back.\r\n'
  await ask('receiveReport', { body: report, headers: { 'Content-Type': 'message/rfc822' } })
  await ask('receiveReportFor', { params: { endpoint: 'dsn' }, body: report })
  await ask('listWebhookSources')
  await ask('removeWebhookSource', { params: { name } })
})

test('about webhooks of the app', async () => {
  answer = 500
  const { id } = await ask<{ id: string }>('createWebhook', {
    body: { endpoint: receiver.url, events: ['email.sent'], description: 'ours' },
  })
  const since = new Date(Date.now() - 60_000).toISOString()
  await ask('sendEmail', { body: MAIL })
  const event = await eventually('an event is told of', async () => {
    const { data } = await ask<{ data: { id: string }[] }>('listWebhookEvents', { params: { id } })
    return data[0]?.id
  })
  const params = { id, event }
  await eventually('it was tried', async () => {
    const { data } = await ask<{ data: unknown[] }>('listWebhookAttempts', { params })
    return data.length > 0
  })
  await ask('getWebhookEvent', { params })
  await ask('getWebhook', { params })
  await ask('listWebhooks')
  answer = 200
  await ask('replayWebhookEvent', { params })
  await ask('replayWebhookEvents', { params: { id }, body: { since } })
  await ask('rotateWebhookSecret', { params })
  await ask('changeWebhook', { params, body: { status: 'disabled' } })
  await ask('getWebhook', { params })
  await ask('removeWebhook', { params })
})

test('about alerts', async () => {
  const { id } = await ask<{ id: string }>('createAlertTarget', {
    body: { name: 'team', kind: 'generic', url: receiver.url },
  })
  const params = { id, name: 'lag' }
  await ask('listAlertTargets')
  await ask('getAlertTarget', { params })
  await ask('testAlertTarget', { params })
  await ask('changeAlertTarget', { params, body: { min_severity: 'critical' } })
  await ask('listAlertRules')
  await ask('changeAlertRule', { params, body: { threshold: 0, clear_at: 0, for_s: 0 } })
  const until = new Date(Date.now() + 60_000).toISOString()
  await ask('silenceAlertRule', { params, body: { until, subject: 'marketing' } })
  await database.query("insert into mail.worker_death (number, name) values (1, 'here:1')")
  const alert = await eventually('an alert fires', async () => {
    const { data } = await ask<{ data: { id: string }[] }>('listAlerts', {
      query: '?rule=worker_died&state=open',
    })
    return data[0]
  })
  await ask('getAlert', { params: alert })
  await ask('acknowledgeAlert', { params: alert })
  await ask('removeAlertTarget', { params })
})

test('about the service', async () => {
  await ask('isAlive')
  await ask('isReady')
  await ask('getDocument')
})

test('were held to every schema there is', () => {
  // The other kinds differ in their proof alone.
  const isSameAsPostmark = (id: string) => /^receive(?!Postmark)/.test(id)
  const missing = OPERATIONS.filter(
    ({ id, answer }) => answer.schema !== undefined && !asked.has(id) && !isSameAsPostmark(id),
  )
  assert.deepEqual(
    missing.map(({ id }) => id),
    [],
    'ask them in this file',
  )
})

test('errors have their schema, and the document its own headers', async () => {
  for (const [path, options] of [
    ['/emails', { body: {} }],
    ['/emails', { body: '{' }],
    ['/emails/nobody', {}],
    ['/nowhere', {}],
    ['/stats', { method: 'DELETE' }],
    ['/emails', { headers: { Authorization: 'Bearer wrong' } }],
    ['/emails/bulk', { body: { message: 1 } }],
  ] as const) {
    const response = await service.request(path, options)
    assert.ok(response.status >= 400, path)
    const error = errorSchema.parse(await response.json())
    assert.equal(error.statusCode, response.status)
  }
  const first = await fetch(new URL('/openapi.json', service.url))
  assert.equal(first.headers.get('Content-Type'), 'application/json; charset=utf-8')
  const again = await fetch(new URL('/openapi.json', service.url), {
    headers: { 'If-None-Match': first.headers.get('ETag') ?? '' },
  })
  assert.deepEqual([again.status, await again.text()], [304, ''])
})
