import assert from 'node:assert/strict'
import { before, describe, test } from 'node:test'
import { Resend } from 'resend'
import { createKey } from '../../src/keys/keys.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { orderMail, startTestService, TEST_KEY, type TestService } from '../support/service.ts'

const FORMAT = /^sluice_[a-z0-9]{12}_[A-Za-z0-9_-]{43}[0-9a-f]{8}$/
const DAY_MS = 86_400_000

let database: TestDatabase
let service: TestService

before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  service = await startTestService(database, { SLUICE_ROLES: 'api' })
})

type Answer = Record<string, unknown> & { id: string; token: string; name: string; message: string }

async function call(method: string, path: string, body?: unknown, key = TEST_KEY) {
  const response = await service.request(path, {
    method,
    headers: { Authorization: `Bearer ${key}` },
    ...(body !== undefined && { body }),
  })
  return { status: response.status, body: (await response.json()) as Answer }
}

/** How a request to send is answered to this key. */
async function sends(key: string): Promise<number> {
  return (await call('POST', '/emails', orderMail(), key)).status
}

describe('the official SDK', () => {
  test('makes, lists, renames and removes keys', async () => {
    const resend = new Resend(TEST_KEY, { baseUrl: service.url ?? '' })
    const made = await resend.apiKeys.create({ name: 'Shop', permission: 'sending_access' })
    assert.equal(made.error, null)
    assert.match(made.data.token, FORMAT)
    const { id, token } = made.data
    assert.equal(await sends(token), 200)

    const renamed = await resend.apiKeys.update(id, { name: 'Shop 2' })
    assert.deepEqual([renamed.error, renamed.data?.object, renamed.data?.id], [null, 'api_key', id])
    const listed = await eventually('the list has its last use', async () => {
      const { data } = await resend.apiKeys.list()
      const row = data?.data.find((each) => each.id === id)
      return row?.last_used_at ? { ...data, row } : undefined
    })
    assert.deepEqual([listed.object, listed.has_more, listed.row.name], ['list', false, 'Shop 2'])
    assert.ok(Date.parse(listed.row.created_at) <= Date.parse(listed.row.last_used_at ?? ''))
    assert.deepEqual(
      listed.data?.map(({ name }) => name),
      ['Shop 2'],
      'the key of the environment is no row',
    )

    const removed = await resend.apiKeys.remove(id)
    assert.deepEqual(removed.data, { object: 'api_key', id, deleted: true })
    assert.equal(await sends(token), 401)
    const again = await resend.apiKeys.remove(id)
    assert.deepEqual([again.error?.statusCode, again.error?.name], [404, 'not_found'])
  })

  test('turns pages', async () => {
    const resend = new Resend(TEST_KEY, { baseUrl: service.url ?? '' })
    await database.query('delete from mail.api_key')
    const ids: string[] = []
    for (const name of ['p1', 'p2', 'p3', 'p4']) {
      ids.unshift((await createKey(service.db, { name, scope: 'read' })).id)
    }
    const page = async (options: Parameters<typeof resend.apiKeys.list>[0]) => {
      const { data, error } = await resend.apiKeys.list(options)
      assert.equal(error, null)
      return { ids: data?.data.map(({ id }) => id), hasMore: data?.has_more }
    }
    assert.deepEqual(await page({ limit: 2 }), { ids: ids.slice(0, 2), hasMore: true })
    assert.deepEqual(await page({ limit: 2, after: ids[1] ?? '' }), { ids: ids.slice(2), hasMore: false })
    assert.deepEqual(await page({ limit: 2, before: ids[3] ?? '' }), { ids: ids.slice(1, 3), hasMore: true })
    assert.deepEqual(await page({ before: ids[2] ?? '' }), { ids: ids.slice(0, 2), hasMore: false })
    for (const id of ids) await resend.apiKeys.remove(id)
  })
})

describe('a new key', () => {
  test('has full access unless said otherwise, and what was asked for', async () => {
    const { status, body } = await call('POST', '/api-keys', { name: ' plain ' })
    assert.equal(status, 201)
    assert.deepEqual((await call('GET', `/api-keys/${body.id}`)).body, {
      object: 'api_key',
      id: body.id,
      name: 'plain',
      created_at: (await call('GET', `/api-keys/${body.id}`)).body.created_at,
      last_used_at: null,
      scope: 'full',
      streams: null,
      sender_domains: null,
      expires_at: null,
      rate_limit_per_s: null,
      rate_burst: null,
      created_by: 'api key bootstrap',
      previous_expires_at: null,
    })
    const wanted = {
      scope: 'send',
      streams: ['alerts'],
      sender_domains: ['example.com', 'xn--bcher-kva.example'],
      expires_at: '2096-01-31T12:00:00.000Z',
      rate_limit_per_s: 2.5,
      rate_burst: 10,
    }
    const made = await call('POST', '/api-keys', {
      ...wanted,
      name: 'bound',
      sender_domains: ['Example.COM', 'bücher.example'],
      expires_at: '2096-01-31T14:00:00+02:00',
    })
    assert.equal(made.status, 201, made.body.message)
    assert.partialDeepStrictEqual((await call('GET', `/api-keys/${made.body.id}`)).body, wanted)
  })

  for (const [body, message] of [
    [{}, /Missing `name`/],
    [{ name: ' ' }, /`name`.*empty/],
    [{ name: 'a\nb' }, /`name`.*one line/],
    [{ name: 'x', permission: 'all' }, /`permission`/],
    [{ name: 'x', permission: 'full_access', scope: 'full' }, /either `permission` or `scope`/],
    [{ name: 'x', domain_id: 'd91cd9bd' }, /`domain_id`.*`sender_domains`/],
    [{ name: 'x', scope: 'root' }, /`scope`/],
    [{ name: 'x', streams: ['alerts'] }, /`streams`.*only a key of scope `send`/],
    [
      { name: 'x', scope: 'read', sender_domains: ['a.example'] },
      /`sender_domains`.*only a key of scope `send`/,
    ],
    [{ name: 'x', scope: 'send', streams: ['nowhere'] }, /no stream `nowhere`/],
    [{ name: 'x', scope: 'send', streams: [] }, /`streams`/],
    [{ name: 'x', scope: 'send', sender_domains: ['@a.example'] }, /`sender_domains\[0\]`.*example\.com/],
    [{ name: 'x', scope: 'send', sender_domains: ['a.example>'] }, /`sender_domains\[0\]`/],
    [{ name: 'x', expires_at: '2001-01-01T00:00:00Z' }, /`expires_at`.*future/],
    [{ name: 'x', expires_at: 'tomorrow' }, /`expires_at`.*2030/],
    [{ name: 'x', rate_limit_per_s: 0 }, /`rate_limit_per_s`.*0\.001/],
    [{ name: 'x', rate_burst: 5 }, /`rate_burst`.*`rate_limit_per_s`/],
    [{ name: 'x', scopes: ['send'] }, /Unknown field `scopes`/],
  ] as const) {
    test(`is refused as ${JSON.stringify(body)}`, async () => {
      const { status, body: answer } = await call('POST', '/api-keys', body)
      assert.deepEqual([status, answer.statusCode], [422, 422])
      assert.match(answer.message, message)
    })
  }

  test('has no more than the key that makes it', async () => {
    const soon = new Date(Date.now() + DAY_MS)
    const later = new Date(Date.now() + 2 * DAY_MS).toISOString()
    const { key, id } = await createKey(service.db, {
      name: 'deputy',
      scope: 'full',
      expires_at: soon,
      rate_limit_per_s: 1_000,
    })
    const base = { name: 'x', expires_at: soon.toISOString(), rate_limit_per_s: 10 }
    const made = await call('POST', '/api-keys', base, key)
    assert.equal(made.status, 201, made.body.message)
    for (const [changes, field] of [
      [{ expires_at: undefined }, 'expires_at'],
      [{ expires_at: later }, 'expires_at'],
      [{ rate_limit_per_s: undefined }, 'rate_limit_per_s'],
      [{ rate_limit_per_s: 1_001 }, 'rate_limit_per_s'],
      [{ rate_burst: 1_001 }, 'rate_burst'],
    ] as const) {
      for (const [method, path] of [
        ['POST', '/api-keys'],
        ['PATCH', `/api-keys/${made.body.id}`],
      ] as const) {
        if (method === 'PATCH' && Object.values(changes)[0] === undefined) continue
        const body = method === 'POST' ? { ...base, ...changes } : changes
        const { status, body: answer } = await call(method, path, body, key)
        assert.deepEqual([status, answer.name], [401, 'restricted_api_key'], answer.message)
        assert.ok(answer.message.includes(`\`${field}\``), answer.message)
      }
    }
    // Nor can it come by the secret of one that has more.
    const { id: better } = await createKey(service.db, { name: 'chief', scope: 'full' })
    assert.equal((await call('POST', `/api-keys/${better}/rotate`, {}, key)).body.name, 'restricted_api_key')
    assert.equal((await call('PATCH', `/api-keys/${better}`, { name: 'boss' }, key)).status, 200)
    assert.equal((await call('POST', `/api-keys/${id}/rotate`, {}, key)).status, 200)
  })
})

test('a change holds from the next request on', async () => {
  const { body } = await call('POST', '/api-keys', { name: 'changed', scope: 'send' })
  assert.equal(await sends(body.token), 200)
  const changed = await call('PATCH', `/api-keys/${body.id}`, { streams: ['marketing'] })
  assert.deepEqual([changed.status, changed.body.streams], [200, ['marketing']])
  assert.equal(await sends(body.token), 401)
  assert.equal((await call('PATCH', `/api-keys/${body.id}`, { streams: null })).status, 200)
  assert.equal(await sends(body.token), 200)
  const scope = await call('PATCH', `/api-keys/${body.id}`, { scope: 'full' })
  assert.match(scope.body.message, /Unknown field `scope`/)
  const { id } = await createKey(service.db, { name: 'reader', scope: 'read' })
  const bound = await call('PATCH', `/api-keys/${id}`, { streams: ['alerts'] })
  assert.match(bound.body.message, /only a key of scope `send`/)
  assert.equal((await call('PATCH', `/api-keys/${id}`, {})).status, 200)
})

test('rotation answers with the new secret and until when the old one works', async () => {
  const { body } = await call('POST', '/api-keys', { name: 'rotated', scope: 'send' })
  const rotated = await call('POST', `/api-keys/${body.id}/rotate`, { overlap_s: 60 })
  assert.deepEqual([rotated.status, rotated.body.id], [200, body.id])
  assert.match(rotated.body.token, FORMAT)
  assert.notEqual(rotated.body.token, body.token)
  assert.ok(Date.parse(String(rotated.body.previous_expires_at)) > Date.now())
  assert.deepEqual([await sends(body.token), await sends(rotated.body.token)], [200, 200])

  const last = await call('POST', `/api-keys/${body.id}/rotate`, { overlap_s: 0 })
  assert.equal(last.body.previous_expires_at, null)
  for (const [token, status] of [
    [body.token, 401],
    [rotated.body.token, 401],
    [last.body.token, 200],
  ] as const) {
    assert.equal(await sends(token), status)
  }
  for (const overlap of [-1, 1.5, 31 * 86_400, '24h']) {
    const { status } = await call('POST', `/api-keys/${body.id}/rotate`, { overlap_s: overlap })
    assert.equal(status, 422)
  }
})

test('what is not there looks the same as what may not be seen', async () => {
  const { id: revoked } = await createKey(service.db, { name: 'revoked', scope: 'send' })
  await call('DELETE', `/api-keys/${revoked}`)
  const bodies = new Set<string>()
  for (const id of [revoked, 'bootstrap', 'aaaaaaaaaaaa', 'x', '%00', "'", 'ü'.repeat(300)]) {
    for (const [method, rest, body] of [
      ['GET', '', undefined],
      ['PATCH', '', { name: 'x' }],
      ['DELETE', '', undefined],
      ['POST', '/rotate', {}],
    ] as const) {
      const answer = await call(method, `/api-keys/${id}${rest}`, body)
      assert.equal(answer.status, 404, `${method} ${id}`)
      bodies.add(JSON.stringify(answer.body))
    }
  }
  assert.equal(bodies.size, 1)
  for (const query of [
    'after=bootstrap',
    'before=aaaaaaaaaaaa',
    'limit=0',
    'limit=101',
    'page=2',
    'after=a&before=b',
  ]) {
    assert.equal((await call('GET', `/api-keys?${query}`)).status, 422, query)
  }
})

test('the last full key may go: the answer is 401 from then on, and psql or the command line make another', async () => {
  const { id, key } = await createKey(service.db, { name: 'last', scope: 'full' })
  assert.equal((await call('DELETE', `/api-keys/${id}`, undefined, key)).status, 200)
  assert.equal((await call('GET', '/api-keys', undefined, key)).status, 401)
})

test('a stopping process writes down which keys were used', async () => {
  const { id, key } = await createKey(service.db, { name: 'parting', scope: 'send' })
  const parting = await startTestService(database, { SLUICE_ROLES: 'api' })
  const headers = { Authorization: `Bearer ${key}` }
  assert.equal((await parting.request('/emails', { body: orderMail(), headers })).status, 200)
  assert.equal(await parting.stop(), true)
  const [row] = await database.query('select from mail.api_key where id = $1 and last_used_at is not null', [
    id,
  ])
  assert.ok(row)
})
