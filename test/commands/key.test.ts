import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { readDurationS, readTime } from '../../src/commands/duration.ts'
import { openPool } from '../../src/db/pool.ts'
import { Keyring } from '../../src/keys/keyring.ts'
import { createLog } from '../../src/log.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'

const MAIN = fileURLToPath(new URL('../../src/main.js', import.meta.url))

let database: TestDatabase
let identify: (key: string) => ReturnType<Keyring['identify']>

before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  const pool = openPool({ url: database.url, maxConnections: 1, role: undefined, log: createLog('silent') })
  database.beforeDrop(pool.close)
  identify = (key) => new Keyring(pool.db, undefined).identify(key)
})

async function run(...args: string[]) {
  const child = spawn(process.execPath, [MAIN, ...args], {
    env: {
      PATH: process.env.PATH,
      NODE_COMPILE_CACHE: process.env.NODE_COMPILE_CACHE,
      DATABASE_URL: database.url,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const [output, words] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')])
  return { code: child.exitCode, output, words }
}

test('a key is made, rotated, listed and revoked, and standard output has the key alone', async () => {
  const made = await run(
    ...['key', 'create', '--name', 'shop', '--scope', 'send', '--stream', 'alerts', '--stream', 'marketing'],
    ...['--domain', 'Example.com', '--expires', '90d', '--rate', '10', '--burst', '50'],
  )
  assert.equal(made.code, 0, made.words)
  assert.match(made.output, /^sluice_[a-z0-9]{12}_\S+\n$/)
  const caller = await identify(made.output.trim())
  const { expires_at, keyId: id = '', ...rest } = caller ?? {}
  assert.deepEqual(rest, {
    name: 'shop',
    scope: 'send',
    streams: ['alerts', 'marketing'],
    sender_domains: ['example.com'],
    rate_limit_per_s: 10,
    rate_burst: 50,
  })
  const days = ((expires_at?.getTime() ?? 0) - Date.now()) / 86_400_000
  assert.ok(days > 89.9 && days < 90.1, `${days} days`)
  assert.match(made.words, new RegExp(`key ${id} was made`))

  const rotated = await run('key', 'rotate', id, '--overlap', '1h')
  assert.equal(rotated.code, 0, rotated.words)
  assert.match(rotated.words, /the one it had works until/)
  for (const key of [made.output, rotated.output]) assert.equal((await identify(key.trim()))?.keyId, id)

  assert.equal((await run('key', 'revoke', id)).code, 0)
  for (const key of [made.output, rotated.output]) assert.equal(await identify(key.trim()), undefined)
  for (const args of [
    ['revoke', id],
    ['rotate', id],
    ['revoke', 'nobody'],
  ]) {
    const again = await run('key', ...args)
    assert.deepEqual([again.code, again.output], [1, ''])
    assert.match(again.words, /there is no key/)
  }

  const { output } = await run('key', 'list')
  const [headings, row] = output.split('\n')
  assert.match(headings ?? '', /^ID +NAME +SCOPE +LIMITS +CREATED +LAST USED +EXPIRES +STATE$/)
  assert.match(
    row ?? '',
    new RegExp(
      `^${id} +shop +send +streams alerts,marketing; from example\\.com; 10/s; 50 at once +20.* revoked$`,
    ),
  )
})

describe('what is not understood ends with 64 and says what would be right', () => {
  for (const [args, words] of [
    [['key'], /key has no command/],
    [['key', 'toString'], /key has no command/],
    [['key', 'create'], /needs --name/],
    [['key', 'create', '--name', 'x', '--scope', 'root'], /--scope must be one of full, send, read, operate/],
    [['key', 'create', '--name', 'x', '--stream', 'alerts'], /--stream.*only a key of scope `send`/],
    [['key', 'create', '--name', 'x', '--expires', 'soon'], /--expires must be a time/],
    [['key', 'create', '--name', 'x', '--rate', 'fast'], /--rate must be a number/],
    [['key', 'create', '--name', 'x', '--frobnicate'], /--frobnicate/],
    [['key', 'rotate'], /id of one key/],
    [['key', 'rotate', 'abc', '--overlap', 'long'], /--overlap/],
    [['frobnicate'], /no command "frobnicate"/],
    [['migrate', 'twice'], /"migrate" takes no "twice"/],
  ] as const) {
    test(args.join(' '), async () => {
      const { code, output, words: said } = await run(...args)
      assert.deepEqual([code, output], [64, ''])
      assert.match(said, words)
      assert.match(said, /npm start --/)
    })
  }

  test('a stream that does not exist', async () => {
    const { code, words } = await run(
      ...['key', 'create', '--name', 'x', '--scope', 'send', '--stream', 'nowhere'],
    )
    assert.equal(code, 1)
    assert.match(words, /no stream "nowhere"/)
  })
})

test('every command has its help', async () => {
  for (const [args, words] of [
    [['--help'], /DATABASE_URL/],
    [['key', '--help'], /key rotate ID/],
    [['key', 'create', '--help'], /--domain/],
    [['key', 'list', '--help'], /key list/],
    [['key', 'revoke', '-h'], /key revoke ID/],
    [['key', 'rotate', '--help'], /--overlap/],
  ] as const) {
    const { code, output } = await run(...args)
    assert.equal(code, 0)
    assert.match(output, words)
  }
})

test('times are written as people write them', () => {
  for (const [written, seconds] of [
    ['0s', 0],
    ['30m', 1_800],
    ['24h', 86_400],
    ['90d', 7_776_000],
    ['2w', 1_209_600],
    ['24', undefined],
    ['1y', undefined],
    ['-1d', undefined],
    ['', undefined],
  ] as const) {
    assert.equal(readDurationS(written), seconds, written)
  }
  assert.equal(readTime('1d', 0), '1970-01-02T00:00:00.000Z')
  assert.equal(readTime('2030-01-31', 0), '2030-01-31T00:00:00Z')
  assert.equal(readTime('2030-01-31T10:00:00+02:00', 0), '2030-01-31T10:00:00+02:00')
})
