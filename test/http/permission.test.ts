import assert from 'node:assert/strict'
import { before, describe, test } from 'node:test'
import { checkMay } from '../../src/http/permission.ts'
import { type Caller, createKey } from '../../src/keys/keys.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { orderMail, startTestService, type TestService } from '../support/service.ts'

let database: TestDatabase
let service: TestService

before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  service = await startTestService(database, { SLUICE_ROLES: 'api' })
})

type Answer = { statusCode?: number; name?: string; message?: string; id?: string }

async function send(key: string, changes: Record<string, unknown>): Promise<Answer & { status: number }> {
  const response = await service.request('/emails', {
    body: orderMail(changes),
    headers: { Authorization: `Bearer ${key}` },
  })
  return { status: response.status, ...((await response.json()) as Answer) }
}

describe('a key bound to streams', () => {
  test('sends in those and in no other, and the default is a stream like any', async () => {
    const { key } = await createKey(service.db, {
      name: 'newsletter',
      scope: 'send',
      streams: ['marketing', 'alerts'],
    })
    assert.equal((await send(key, { stream: 'marketing' })).status, 200)
    for (const stream of ['transactional', undefined]) {
      const { status, name, message } = await send(key, { stream })
      assert.deepEqual([status, name], [401, 'restricted_api_key'])
      assert.match(message ?? '', /`transactional`; set `stream` to `marketing` or `alerts`/)
    }
  })

  test('does not learn which other streams there are', async () => {
    const { key } = await createKey(service.db, { name: 'narrow', scope: 'send', streams: ['alerts'] })
    const [there, nowhere] = [
      await send(key, { stream: 'marketing' }),
      await send(key, { stream: 'nowhere' }),
    ]
    assert.equal(there.message?.replaceAll('marketing', 'nowhere'), nowhere.message)
    assert.deepEqual([there.status, there.name], [nowhere.status, nowhere.name])
    assert.doesNotMatch(nowhere.message ?? '', /transactional|marketing/)
  })
})

describe('a key bound to sender domains', () => {
  test('sends from those, however they are written, and not from those below or above them', async () => {
    const { key } = await createKey(service.db, {
      name: 'shop',
      scope: 'send',
      sender_domains: ['example.com', 'xn--bcher-kva.example'],
    })
    for (const from of ['a@example.com', 'A <a@EXAMPLE.com>', 'a@bücher.example']) {
      assert.equal((await send(key, { from })).status, 200, from)
    }
    for (const from of ['a@mail.example.com', 'a@example.org', 'a@com', '"a@example.com" <a@evil.example>']) {
      const { status, name, message, statusCode } = await send(key, { from })
      assert.deepEqual([status, statusCode, name], [403, 403, 'validation_error'], from)
      assert.match(message ?? '', /`from`.*use an address at `example.com` or `xn--bcher-kva.example`/)
    }
  })

  test('may not leave the sender to a template', () => {
    const caller = { streams: null, sender_domains: ['example.com'] } as unknown as Caller
    assert.throws(() => checkMay(caller, {}, 'transactional'), {
      code: 'missing_required_field',
      message: /Missing `from`.*`example.com`/,
    })
    checkMay({ ...caller, sender_domains: null }, {}, 'transactional')
  })
})

test('what a key may not send it may not send among others either', async () => {
  const { key } = await createKey(service.db, {
    name: 'bound',
    scope: 'send',
    streams: ['marketing'],
    sender_domains: ['example.com'],
  })
  const allowed = orderMail({ stream: 'marketing' })
  const message = { from: 'shop@example.com', subject: 'News', text: 'News.' }
  const recipients = [{ to: 'ann@example.net' }]
  const ask = async (path: string, body: unknown) => {
    const headers = { Authorization: `Bearer ${key}`, 'x-batch-validation': 'permissive' }
    return (await service.request(path, { body, headers })).status
  }
  assert.equal(await ask('/emails/batch', [allowed]), 200)
  assert.equal(await ask('/emails/batch', [allowed, orderMail()]), 401)
  assert.equal(await ask('/emails/batch', [allowed, { ...allowed, from: 'x@example.org' }]), 403)
  assert.equal(await ask('/emails/bulk', { message, recipients }), 200)
  assert.equal(await ask('/emails/bulk', { message: { ...message, stream: 'alerts' }, recipients }), 401)
  assert.equal(await ask('/emails/bulk', { message: { ...message, from: 'x@example.org' }, recipients }), 403)
})
