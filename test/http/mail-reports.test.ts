import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { before, beforeEach, test } from 'node:test'
import { createKey, KEY_SCOPES } from '../../src/keys/keys.ts'
import { openFeedback, PIPE_LOGIN, PIPE_TOKEN } from '../feedback/feedback-stage.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { TEST_KEY } from '../support/service.ts'

const REPORT = readFileSync(new URL('../feedback/reports/postfix-unknown-user.eml', import.meta.url))

let database: TestDatabase
let stage: Awaited<ReturnType<typeof openFeedback>>

before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  stage = await openFeedback(database)
})

beforeEach(async () => {
  await stage.receiver.finish()
  await database.query('delete from mail.feedback')
})

const bearer = (key: string) => `Bearer ${key}`
const basic = (login: string) => `Basic ${Buffer.from(login).toString('base64')}`

function send(
  path: string,
  authorization: string | undefined,
  body: Uint8Array | ReadableStream = REPORT,
  headers: Readonly<Record<string, string>> = {},
): Promise<Response> {
  const init = { method: 'POST', body, duplex: 'half' } as RequestInit
  return Promise.resolve(
    stage.app.request(path, {
      ...init,
      headers: {
        'Content-Type': 'message/rfc822',
        ...headers,
        ...(authorization === undefined ? {} : { Authorization: authorization }),
      },
    }),
  )
}

async function stored(): Promise<{ endpoint: string; kind: string; body: Buffer }[]> {
  return database.query('select endpoint, kind, body from mail.feedback order by id')
}

test('a mail is taken as it is with the credentials of its source, and once', async () => {
  for (const authorization of [basic(PIPE_LOGIN), bearer(PIPE_TOKEN)]) {
    const response = await send('/webhooks/dsn/pipe', authorization)
    assert.deepEqual([response.status, await response.json()], [200, { received: true }])
  }
  assert.deepEqual(await stored(), [{ endpoint: 'pipe', kind: 'dsn', body: REPORT }])
})

test('an API key that may operate is as good, also where no source was made', async () => {
  const may: string[] = []
  for (const scope of KEY_SCOPES) {
    const { key } = await createKey(stage.db, { name: scope, scope })
    const { status } = await send('/webhooks/dsn', bearer(key), Buffer.from(`From: ${scope}\n\n`))
    assert.ok(status === 200 || status === 401, String(status))
    if (status === 200) may.push(scope)
  }
  assert.deepEqual(may, ['full', 'operate'])
  assert.equal((await send('/webhooks/dsn/pipe', bearer(TEST_KEY))).status, 200)
  assert.deepEqual(
    (await stored()).map(({ endpoint }) => endpoint),
    ['dsn', 'dsn', 'pipe'],
  )
})

test('everybody else is refused alike, and the operator is told why', async () => {
  const [name = '', password = ''] = PIPE_LOGIN.split(':')
  for (const [path, authorization] of [
    ['/webhooks/dsn', undefined],
    ['/webhooks/dsn', bearer(PIPE_TOKEN)],
    ['/webhooks/dsn', basic(PIPE_LOGIN)],
    ['/webhooks/dsn/pipe', undefined],
    ['/webhooks/dsn/pipe', bearer(`${PIPE_TOKEN}x`)],
    ['/webhooks/dsn/pipe', basic(`${name}:${password.slice(1)}`)],
    ['/webhooks/dsn/pipe', basic(PIPE_TOKEN)],
    ['/webhooks/dsn/pipe', bearer(PIPE_LOGIN)],
    ['/webhooks/dsn/pipe', 'Digest x'],
    ['/webhooks/dsn/pipe', 'Basic '],
  ] as const) {
    const response = await send(path, authorization)
    assert.deepEqual(
      [response.status, ((await response.json()) as { name: string }).name],
      [401, 'invalid_signature'],
      `${path} ${authorization}`,
    )
  }
  assert.deepEqual(await stored(), [])
  await stage.receiver.finish()
  const refusals = await database.query(
    'select endpoint, reason, refused from mail.webhook_refusal order by endpoint, reason',
  )
  assert.deepEqual(
    refusals.filter(({ endpoint }) => endpoint === 'pipe').map(({ reason, refused }) => [reason, refused]),
    [
      ['credentials_wrong', '4'],
      ['proof_malformed', '2'],
      ['proof_missing', '1'],
    ],
  )
})

test('no other source is a source of mail, and none is where there is none', async () => {
  for (const path of [
    '/webhooks/dsn/postmark',
    '/webhooks/dsn/nowhere',
    '/webhooks/dsn/NO',
    '/webhooks/postmark/pipe',
  ]) {
    assert.equal((await send(path, bearer(TEST_KEY))).status, 404, path)
  }
  // An API key proves nothing of a provider's webhook.
  assert.equal((await send('/webhooks/mailgun/mailgun', bearer(TEST_KEY))).status, 401)
})

test('a variable that is not set puts a mail off, and an API key does not need it', async () => {
  await database.query(
    "insert into mail.webhook_source (name, kind, secrets_env) values ('unset', 'dsn', 'NOT_SET')",
  )
  assert.equal((await send('/webhooks/dsn/unset', basic(PIPE_LOGIN))).status, 503)
  assert.equal((await send('/webhooks/dsn/unset', bearer(TEST_KEY))).status, 200)
})

test('of a large mail the start is kept, and one over the limit is refused, told before or not', async () => {
  const large = Buffer.concat([REPORT, Buffer.alloc(9 * 1_024 * 1_024, 'x')])
  assert.equal((await send('/webhooks/dsn/pipe', basic(PIPE_LOGIN), large)).status, 200)
  const [{ body } = { body: Buffer.alloc(0) }] = await stored()
  assert.equal(body.length, 262_144)
  assert.ok(body.equals(large.subarray(0, 262_144)))

  const tooLarge = Buffer.alloc(10 * 1_024 * 1_024 + 1, 'y')
  const inPieces = new ReadableStream({
    start(controller) {
      for (let start = 0; start < tooLarge.length; start += 65_536) {
        controller.enqueue(tooLarge.subarray(start, start + 65_536))
      }
      controller.close()
    },
  })
  const declared = { 'Content-Length': String(tooLarge.length) }
  for (const [piece, headers] of [
    [tooLarge, declared],
    [inPieces, {}],
  ] as const) {
    assert.equal((await send('/webhooks/dsn/pipe', basic(PIPE_LOGIN), piece, headers)).status, 413)
  }
  assert.equal((await stored()).length, 1)
})

test('who guesses API keys here is turned away from the others as well', async () => {
  for (let tries = 0; tries < 60; tries += 1) {
    assert.equal((await send('/webhooks/dsn', bearer(`guess-${tries}`))).status, 401)
  }
  const response = await stage.app.request('/streams', { headers: { Authorization: bearer('guess') } })
  assert.equal(response.status, 429)
})
