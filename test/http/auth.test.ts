import assert from 'node:assert/strict'
import { once } from 'node:events'
import { Agent, get, type IncomingMessage } from 'node:http'
import { before, test } from 'node:test'
import { createKey, type KeyScope } from '../../src/keys/keys.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { orderMail, startTestService, TEST_KEY, type TestService } from '../support/service.ts'

let database: TestDatabase
let service: TestService

before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  service = await startTestService(database, { SLUICE_ROLES: 'api' })
})

const NO_SUCH = '/emails/00000000-0000-7000-8000-000000000000'

async function answerTo(path: string, authorization: string | undefined, body?: unknown) {
  const response = await fetch(new URL(path, service.url), {
    method: body === undefined ? 'GET' : 'POST',
    headers: {
      'Content-Type': 'application/json',
      ...(authorization === undefined ? {} : { Authorization: authorization }),
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  })
  const headers = Object.fromEntries([...response.headers].filter(([name]) => name !== 'date'))
  const answer = (await response.json()) as { name?: string; message?: string }
  return { status: response.status, headers, body: answer }
}

test('a request without a key is told how to bring one', async () => {
  for (const path of ['/emails', NO_SUCH, '/templates', '/templates/x/publish']) {
    const { status, body } = await answerTo(path, undefined)
    assert.deepEqual([status, body.name], [401, 'missing_api_key'])
    assert.match(body.message ?? '', /Authorization: Bearer/)
  }
})

test('wrong, unknown, revoked and expired keys get one and the same answer', async () => {
  const keys = await Promise.all(
    ['revoked', 'expired', 'unknown'].map((name) => createKey(service.db, { name, scope: 'full' })),
  )
  const [revoked, expired, unknown] = keys
  await database.query('update mail.api_key set revoked_at = now() where id = $1', [revoked?.id])
  await database.query('update mail.api_key set expires_at = now() where id = $1', [expired?.id])
  await database.query('delete from mail.api_key where id = $1', [unknown?.id])
  const answers = []
  for (const key of [...keys.map((each) => each.key), `${TEST_KEY}x`, 'x', 'k'.repeat(600)]) {
    answers.push(await answerTo('/emails', `Bearer ${key}`, orderMail()))
  }
  for (const scheme of ['', 'Bearer', 'Bearer ', `Basic ${TEST_KEY}`, TEST_KEY, `Bearer ${TEST_KEY} x`]) {
    answers.push(await answerTo('/emails', scheme, orderMail()))
  }
  for (const { status, headers, body } of answers) {
    assert.deepEqual([status, body.name, body.message], [401, 'invalid_api_key', 'API key is invalid.'])
    assert.deepEqual(headers, answers[0]?.headers)
  }
})

test('each request of a connection is judged by the key it brings itself', async (t) => {
  const [one, other] = await Promise.all(
    (['full', 'send'] as const).map((scope) => createKey(service.db, { name: scope, scope })),
  )
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  t.after(() => agent.destroy())
  const sockets = new Set<unknown>()
  const statusOf = async (authorization?: string) => {
    const headers = authorization === undefined ? {} : { Authorization: authorization }
    const request = get(new URL('/templates', service.url), { agent, headers })
    const [answer] = (await once(request, 'response')) as [IncomingMessage]
    sockets.add(answer.socket)
    answer.resume()
    await once(answer, 'end')
    return answer.statusCode
  }
  const keys = [one?.key, one?.key, other?.key, TEST_KEY, 'wrong', TEST_KEY, undefined, one?.key]
  const statuses = []
  for (const key of keys) statuses.push(await statusOf(key && `Bearer ${key}`))
  assert.deepEqual(statuses, [200, 200, 401, 200, 401, 200, 401, 200])
  const revoked = await fetch(new URL(`/api-keys/${one?.id}`, service.url), {
    method: 'DELETE',
    headers: { Authorization: `Bearer ${TEST_KEY}` },
  })
  assert.equal(revoked.status, 200)
  assert.equal(await statusOf(`Bearer ${one?.key}`), 401)
  assert.equal(sockets.size, 1)
})

test('nothing is read of a body whose sender is unknown', async () => {
  const { status } = await answerTo('/emails', 'Bearer wrong', 'x'.repeat(6 * 1_024 * 1_024))
  assert.equal(status, 401)
})

test('the scheme is not case-sensitive', async () =>
  assert.equal((await answerTo('/templates', `bearer ${TEST_KEY}`)).status, 200))

test('a key may do what its scope allows and nothing else', async () => {
  const draft = { name: 'scoped', text: 'Hi' }
  const requests = {
    send: (auth: string) => answerTo('/emails', auth, orderMail()),
    read: (auth: string) => answerTo(NO_SUCH, auth),
    list: (auth: string) => answerTo('/templates', auth),
    write: (auth: string) => answerTo('/templates', auth, draft),
    publish: (auth: string) => answerTo('/templates/scoped/publish', auth, {}),
    preview: (auth: string) => answerTo('/templates/scoped/preview', auth, {}),
  }
  const allowed: Record<KeyScope, (keyof typeof requests)[]> = {
    full: ['send', 'read', 'list', 'write', 'publish', 'preview'],
    send: ['send'],
    read: ['read', 'list', 'preview'],
    operate: [],
  }
  for (const [scope, may] of Object.entries(allowed)) {
    const { key } = await createKey(service.db, { name: scope, scope: scope as KeyScope })
    for (const [name, request] of Object.entries(requests)) {
      const { status, body } = await request(`Bearer ${key}`)
      const isAllowed = may.includes(name as keyof typeof requests)
      assert.equal(body.name === 'restricted_api_key', !isAllowed, `${scope} asks to ${name}: ${status}`)
      if (!isAllowed) assert.deepEqual([status, body.message?.includes(`\`${scope}\``)], [401, true])
    }
  }
})

test('health is for everybody', async () => {
  assert.equal((await answerTo('/healthz', undefined)).status, 200)
  assert.equal((await answerTo('/readyz', undefined)).status, 200)
})
