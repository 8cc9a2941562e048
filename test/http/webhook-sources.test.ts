import assert from 'node:assert/strict'
import { before, describe, test } from 'node:test'
import { createKey, type KeyScope } from '../../src/keys/keys.ts'
import { POSTMARK_SECRET, postmarkCall, STANDARD_SECRET, standardCall } from '../feedback/proofs.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { startTestService, type TestService } from '../support/service.ts'

let database: TestDatabase
let service: TestService

before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  service = await startTestService(database, {
    RESEND_WEBHOOK_SECRET: STANDARD_SECRET,
    POSTMARK_WEBHOOK_LOGIN: POSTMARK_SECRET,
  })
})

type Answer = Record<string, unknown> & { name?: string; message?: string; data?: Answer[] }

async function call(method: string, path: string, body?: unknown): Promise<{ status: number; body: Answer }> {
  const response = await service.request(path, { method, ...(body === undefined ? {} : { body }) })
  return { status: response.status, body: (await response.json()) as Answer }
}

const TOPIC = 'arn:aws:sns:eu-west-1:123456789012:mail-events'

test('a source is made, changed as a whole, listed with its path, and deleted', async () => {
  const made = await call('PUT', '/webhook-sources/amazon', { kind: 'ses', options: { topic_arns: [TOPIC] } })
  assert.equal(made.status, 200, made.body.message)
  assert.partialDeepStrictEqual(made.body, {
    object: 'webhook_source',
    name: 'amazon',
    kind: 'ses',
    provider: null,
    path: '/webhooks/ses/amazon',
    waiting: 0,
    parked: 0,
    refused: 0,
  })
  const changed = await call('PUT', '/webhook-sources/amazon', {
    kind: 'sendgrid',
    secrets_env: 'SENDGRID_KEY',
    provider: 'default',
  })
  assert.partialDeepStrictEqual(changed.body, {
    kind: 'sendgrid',
    secrets_env: 'SENDGRID_KEY',
    provider: 'default',
    options: {},
    path: '/webhooks/sendgrid/amazon',
  })
  const { body } = await call('GET', '/webhook-sources')
  assert.deepEqual(
    body.data?.map(({ name }) => name),
    ['amazon', 'dsn'],
  )
  assert.equal((await call('DELETE', '/webhook-sources/amazon')).status, 200)
  assert.deepEqual((await call('DELETE', '/webhook-sources/amazon')).status, 404)
  assert.equal((await call('GET', '/webhook-sources')).body.data?.length, 1)
})

test('a source that makes no sense is refused with the field or the rule, and nothing is written', async () => {
  for (const [body, name, message] of [
    [{}, 'validation_error', /`kind`/],
    [{ kind: 'pigeon' }, 'validation_error', /`kind`/],
    [{ kind: 'resend' }, 'validation_error', /source names the variable of its secrets/],
    [{ kind: 'resend', secrets_env: 'whsec_abc' }, 'validation_error', /name of an environment variable/],
    [{ kind: 'resend', secrets_env: 'A', colour: 'red' }, 'validation_error', /Unknown field `colour`/],
    [{ kind: 'resend', secrets_env: 'A', provider: 'nowhere' }, 'validation_error', /provider/],
    [{ kind: 'ses' }, 'validation_error', /ses source has topic arns/],
    [{ kind: 'ses', options: { topic_arns: [] } }, 'validation_error', /topic_arns/],
    [
      { kind: 'ses', options: { topic_arns: ['arn:aws:sns:*:*:*'] } },
      'validation_error',
      /ARN of an SNS topic/,
    ],
    [{ kind: 'ses', options: { topics: [TOPIC] } }, 'validation_error', /Unknown field/],
    [[], 'validation_error', /`body`/],
  ] as const) {
    const answer = await call('PUT', '/webhook-sources/odd', body)
    assert.deepEqual([answer.status, answer.body.name], [422, name], JSON.stringify([body, answer.body]))
    assert.match(answer.body.message ?? '', message)
  }
  for (const path of ['A', 'a.b', '%00', 'x'.repeat(65)]) {
    assert.equal((await call('PUT', `/webhook-sources/${path}`, { kind: 'ses' })).status, 422)
  }
  assert.equal((await call('GET', '/webhook-sources')).body.data?.length, 1)
})

test('SQL keeps the same rules', async () => {
  for (const [options, constraint] of [
    ['{}', 'ses_source_has_topic_arns'],
    ['{"topic_arns": []}', 'ses_source_has_topic_arns'],
    ['{"topic_arns": "arn:aws:sns:eu-west-1:1:a"}', 'ses_source_has_topic_arns'],
    ['{"topic_arns": [7]}', 'ses_source_has_topic_arns'],
    [`{"topic_arns": ["${TOPIC}", "arn:aws:sns:*"]}`, 'ses_source_has_topic_arns'],
  ]) {
    await assert.rejects(
      database.query("insert into mail.webhook_source (name, kind, options) values ('x', 'ses', $1)", [
        options,
      ]),
      (error: { constraint?: string }) => error.constraint === constraint,
      options,
    )
  }
  await assert.rejects(
    database.query(
      `insert into mail.webhook_source (name, kind, secrets_env, options) values ('x', 'resend', 'A', '[]')`,
    ),
    { constraint: 'source_options_are_an_object' },
  )
})

test('who may look and who may change is said by the scope of the key', async () => {
  const allowed: Record<KeyScope, (method: string) => boolean> = {
    full: () => true,
    operate: (method) => method === 'GET',
    read: () => false,
    send: () => false,
  }
  for (const [scope, may] of Object.entries(allowed)) {
    const { key } = await createKey(service.db, { name: scope, scope: scope as KeyScope })
    for (const [method, path, body] of [
      ['GET', '/webhook-sources', undefined],
      ['PUT', '/webhook-sources/scoped', { kind: 'resend', secrets_env: 'A' }],
      ['DELETE', '/webhook-sources/scoped', undefined],
    ] as const) {
      const response = await service.request(path, {
        method,
        headers: { Authorization: `Bearer ${key}` },
        ...(body === undefined ? {} : { body }),
      })
      assert.equal(response.status, may(method) ? 200 : 401, `${scope} ${method}`)
    }
  }
})

describe('a webhook of the running service', () => {
  async function send(path: string, { headers, body }: ReturnType<typeof standardCall>): Promise<Response> {
    return fetch(new URL(path, service.url), { method: 'POST', headers, body: new Uint8Array(body) })
  }

  test('needs no API key but its proof, is stored, and read by the worker', async () => {
    await call('PUT', '/webhook-sources/news', { kind: 'resend', secrets_env: 'RESEND_WEBHOOK_SECRET' })
    await call('PUT', '/webhook-sources/orders', { kind: 'postmark', secrets_env: 'POSTMARK_WEBHOOK_LOGIN' })
    const good = await send('/webhooks/resend/news', standardCall('{"type":"email.sent"}', Date.now()))
    assert.deepEqual([good.status, await good.json()], [200, { received: true }])
    assert.equal(
      (await send('/webhooks/postmark/orders', postmarkCall({ RecordType: 'Inbound' }))).status,
      200,
    )
    const forged = await send(
      '/webhooks/resend/news',
      standardCall('{}', Date.now(), { secret: 'A'.repeat(32) }),
    )
    assert.equal(forged.status, 401)
    assert.deepEqual(await forged.json(), {
      statusCode: 401,
      name: 'invalid_signature',
      message: 'The proof of this request is missing, wrong or too old.',
    })
    const rows = await database.query('select endpoint from mail.feedback order by 1')
    assert.deepEqual(rows, [{ endpoint: 'news' }, { endpoint: 'orders' }])
    const refused = await eventually('the refusal is counted', async () => {
      const { body } = await call('GET', '/webhook-sources')
      return body.data?.find(({ name, refused }) => name === 'news' && refused === 1)
    })
    assert.equal(refused.last_refusal, 'signature_wrong')
  })

  test('is found only by its own name and method', async () => {
    for (const path of ['/webhooks/resend/%00', '/webhooks/resend/NEWS']) {
      assert.equal((await send(path, standardCall('{}', Date.now()))).status, 404, path)
    }
    // Other methods are those of the app's own webhooks, which ask for a key.
    assert.equal((await fetch(new URL('/webhooks/resend/news', service.url))).status, 401)
  })
})
