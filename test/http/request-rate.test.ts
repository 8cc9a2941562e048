import assert from 'node:assert/strict'
import { before, describe, test } from 'node:test'
import type { Hono } from 'hono'
import { Client } from 'pg'
import { type Database, openPool } from '../../src/db/pool.ts'
import { createApp } from '../../src/http/app.ts'
import type { AppDeps } from '../../src/http/deps.ts'
import { FailedAttempts, networkOf } from '../../src/http/failed-attempts.ts'
import { Keyring } from '../../src/keys/keyring.ts'
import { createKey } from '../../src/keys/keys.ts'
import { createLog } from '../../src/log.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { countLockWaits } from '../support/lock-waits.ts'

/** So slow that no token comes back while a test runs. */
const SLOW = { rate_limit_per_s: 0.01 }

let database: TestDatabase
let db: Database
/** Tags of the statements that the apps made. */
const statements: string[] = []

before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  const pool = openPool({ url: database.url, maxConnections: 4, role: undefined, log: createLog('silent') })
  database.beforeDrop(pool.close)
  db = pool.db.withPlugin({
    transformQuery: ({ node }) => {
      if (node.kind === 'RawNode') statements.push(/^\/\* (\S+)/.exec(node.sqlFragments[0] ?? '')?.[1] ?? '')
      return node
    },
    transformResult: async ({ result }) => result,
  })
})

/** One process: an app with its own memory, over the database of all. */
function openApp(bootstrapKey?: string): Hono {
  const deps: Partial<AppDeps> = {
    db,
    log: createLog('silent'),
    keyring: new Keyring(db, bootstrapKey),
    maxBodyBytes: 10_000,
  }
  return createApp(deps as AppDeps)
}

async function ask(app: Hono, key: string, path = '/templates', method = 'GET') {
  const response = await app.request(path, { method, headers: { Authorization: `Bearer ${key}` } })
  const { headers } = response
  return {
    status: response.status,
    limit: headers.get('ratelimit-limit'),
    remaining: headers.get('ratelimit-remaining'),
    reset: headers.get('ratelimit-reset'),
    retryAfter: headers.get('retry-after'),
    body: (await response.json()) as { name?: string; message?: string },
  }
}

function taken(): number {
  return statements.filter((tag) => tag === 'key.take_request_tokens').length
}

describe('a key with a rate limit', () => {
  test('has so many requests over all processes, and is told how many are left', async () => {
    const { key } = await createKey(db, { name: 'limited', scope: 'read', ...SLOW, rate_burst: 4 })
    const [here, there] = [openApp(), openApp()]
    const answers = []
    for (const app of [here, there, here, there]) answers.push(await ask(app, key))
    assert.deepEqual(
      answers.map(({ status, limit, remaining }) => [status, limit, remaining]),
      ['3', '2', '1', '0'].map((remaining) => [200, '4', remaining]),
    )
    for (const app of [here, there]) {
      const refused = await ask(app, key)
      assert.deepEqual([refused.status, refused.body.name], [429, 'rate_limit_exceeded'])
      assert.deepEqual([refused.limit, refused.remaining], ['4', '0'])
      assert.ok(Number(refused.retryAfter) > 90 && Number(refused.retryAfter) <= 100, `${refused.retryAfter}`)
      assert.ok(Number(refused.reset) > 390 && Number(refused.reset) <= 400, `${refused.reset}`)
      assert.match(refused.body.message ?? '', /0\.01 a second/)
    }
  })

  test('gets no request more when processes ask at the same moment', async () => {
    const { key } = await createKey(db, { name: 'contended', scope: 'read', ...SLOW, rate_burst: 25 })
    const apps = [openApp(), openApp(), openApp()]
    const answers = await Promise.all(
      Array.from({ length: 60 }, (_, n) => ask(apps[n % 3] ?? openApp(), key, '/templates/none')),
    )
    assert.equal(answers.filter(({ status }) => status !== 429).length, 25)
  })

  test('waits for the process that is taking tokens, and counts what that took', async () => {
    const { id, key } = await createKey(db, { name: 'raced', scope: 'read', ...SLOW, rate_burst: 5 })
    const app = openApp()
    assert.equal((await ask(app, key)).status, 200)
    const other = new Client({ connectionString: database.url })
    await other.connect()
    await other.query('begin')
    await other.query('select mail.take_request_tokens($1, 5)', [id])
    const answer = ask(app, key)
    await eventually('the request waits', async () => (await countLockWaits(other)) > 0)
    await other.query('commit')
    await other.end()
    assert.equal((await answer).status, 429)
  })

  test('gets tokens back as time passes, up to its burst', async () => {
    const { id, key } = await createKey(db, { name: 'refilled', scope: 'read', ...SLOW, rate_burst: 2 })
    const app = openApp()
    for (const status of [200, 200, 429]) assert.equal((await ask(app, key)).status, status)
    const passed = (seconds: number) =>
      database.query(
        'update mail.api_key_bucket set refilled_at = refilled_at - make_interval(secs => $2) where key_id = $1',
        [id, seconds],
      )
    await passed(100)
    for (const status of [200, 429]) assert.equal((await ask(app, key)).status, status)
    await passed(100_000)
    for (const status of [200, 200, 429]) assert.equal((await ask(app, key)).status, status)
    // A clock set back takes nothing away and gives nothing.
    await passed(-1_000)
    assert.equal((await ask(app, key)).status, 429)
  })

  test('counts refused and failed requests, and says so on those as well', async () => {
    const { key } = await createKey(db, { name: 'clumsy', scope: 'read', ...SLOW, rate_burst: 9 })
    const app = openApp()
    for (const [method, path, status, remaining] of [
      ['GET', '/templates/none', 404, '8'],
      ['POST', '/templates', 401, '7'],
    ] as const) {
      const answer = await ask(app, key, path, method)
      assert.deepEqual([answer.status, answer.remaining], [status, remaining])
    }
  })

  test('costs one statement for all requests that come while one is under way, whatever their keys', async () => {
    const keys = await Promise.all(
      ['one', 'two'].map((name) => createKey(db, { name, scope: 'read', ...SLOW, rate_burst: 30 })),
    )
    const app = openApp()
    for (const { key } of keys) await ask(app, key)
    const before = taken()
    const answers = await Promise.all(
      Array.from({ length: 80 }, (_, n) => ask(app, keys[n % 2]?.key ?? '', '/templates/none')),
    )
    assert.ok(taken() - before <= 3, `${taken() - before} statements`)
    for (const half of [0, 1]) {
      const own = answers.filter((_, n) => n % 2 === half)
      const granted = own.filter(({ status }) => status !== 429)
      assert.equal(granted.length, 29)
      // Each is told its own place.
      const places = granted.map(({ remaining }) => Number(remaining)).sort((a, b) => a - b)
      assert.deepEqual(places, [...Array(29).keys()])
    }
  })

  test('does not wait for it with bulk mail', async () => {
    const { key } = await createKey(db, { name: 'bulk', scope: 'send', ...SLOW, rate_burst: 1 })
    const app = openApp()
    const before = taken()
    for (let n = 0; n < 3; n += 1) {
      const answer = await ask(app, key, '/emails/bulk', 'POST')
      assert.notEqual(answer.status, 429)
      assert.equal(answer.limit, null)
    }
    assert.equal(taken(), before)
  })

  test('is free as soon as the limit is taken away, with or without the memory of a process', async () => {
    const { id, key } = await createKey(db, { name: 'freed', scope: 'read', ...SLOW, rate_burst: 1 })
    const app = openApp()
    assert.deepEqual([(await ask(app, key)).status, (await ask(app, key)).status], [200, 429])
    await database.query('update mail.api_key set rate_limit_per_s = null, rate_burst = null where id = $1', [
      id,
    ])
    const { status, limit } = await ask(app, key)
    assert.deepEqual([status, limit], [200, null])
  })

  test('may ask as often as in a second when no burst is set, and at least once', async () => {
    for (const [rate, quota] of [
      [0.2, '1'],
      [7.5, '8'],
    ] as const) {
      const { key } = await createKey(db, { name: 'rate alone', scope: 'read', rate_limit_per_s: rate })
      assert.equal((await ask(openApp(), key)).limit, quota)
    }
  })
})

test('a key without a limit pays nothing and hears nothing of limits', async () => {
  const { key } = await createKey(db, { name: 'free', scope: 'read' })
  const before = taken()
  const { status, limit, remaining, reset } = await ask(openApp(), key)
  assert.deepEqual([status, limit, remaining, reset], [200, null, null, null])
  assert.equal(taken(), before)
})

describe('an address that keeps bringing wrong keys', () => {
  test('is turned away for the rest of the minute, unseen by the database', async () => {
    const { key: good } = await createKey(db, { name: 'neighbour', scope: 'read' })
    const { key: unseen } = await createKey(db, { name: 'unseen', scope: 'read' })
    const { id, key: gone } = await createKey(db, { name: 'gone', scope: 'read' })
    await database.query('delete from mail.api_key where id = $1', [id])
    const app = openApp('bootstrap-0123456789')
    assert.equal((await ask(app, good)).status, 200)
    for (let n = 0; n < 60; n += 1) assert.equal((await ask(app, n === 0 ? gone : 'wrong')).status, 401)
    const lookUps = statements.filter((tag) => tag === 'key.look_up').length
    for (const key of ['wrong', gone, unseen]) {
      const refused = await ask(app, key)
      assert.deepEqual([refused.status, refused.body.name], [429, 'rate_limit_exceeded'])
      assert.ok(Number(refused.retryAfter) > 0 && Number(refused.retryAfter) <= 60)
    }
    assert.equal(statements.filter((tag) => tag === 'key.look_up').length, lookUps)
    // Behind one proxy everybody has one address: who was right before goes on.
    assert.equal((await ask(app, good)).status, 200)
    assert.equal((await ask(app, 'bootstrap-0123456789')).status, 200)
  })

  test('may try again after a minute, and others meanwhile', () => {
    let now = 0
    const failures = new FailedAttempts(() => now)
    for (let n = 0; n < 60; n += 1) failures.note('203.0.113.7')
    now += 15_000
    assert.equal(failures.retryAfterS('203.0.113.7'), 45)
    assert.equal(failures.retryAfterS('203.0.113.8'), undefined)
    now += 45_000
    assert.equal(failures.retryAfterS('203.0.113.7'), undefined)
    failures.note('203.0.113.7')
    assert.equal(failures.retryAfterS('203.0.113.7'), undefined)
  })

  test('does not fill the memory with its many addresses', () => {
    const failures = new FailedAttempts(() => 0)
    for (let n = 0; n < 60; n += 1) failures.note('2001:db8::1')
    for (let n = 0; n < 10_000; n += 1) failures.note(`10.${n >> 16}.${(n >> 8) & 255}.${n & 255}`)
    assert.equal(failures.retryAfterS('2001:db8::1'), undefined, 'the eldest made room')
  })

  test('is one network: a customer has a whole /64 of IPv6', () => {
    for (const [address, network] of [
      ['203.0.113.7', '203.0.113.7'],
      ['::ffff:203.0.113.7', '203.0.113.7'],
      ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2'],
      ['2001:DB8:1:2::9', '2001:db8:1:2'],
      ['2001:db8::9', '2001:db8:0:0'],
      ['::1', '0:0:0:0'],
      ['fe80::1%eth0', 'fe80:0:0:0'],
      ['', ''],
    ] as const) {
      assert.equal(networkOf(address), network, address)
    }
  })
})
