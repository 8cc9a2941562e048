import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import { openPool } from '../../src/db/pool.ts'
import { Keyring } from '../../src/keys/keyring.ts'
import { createKey, hasKeys } from '../../src/keys/keys.ts'
import { createLog } from '../../src/log.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'

const FORMAT = /^sluice_[a-z0-9]{12}_[A-Za-z0-9_-]{43}[0-9a-f]{8}$/

let database: TestDatabase
let db: ReturnType<typeof openPool>['db']

before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  const pool = openPool({ url: database.url, maxConnections: 2, role: undefined, log: createLog('silent') })
  database.beforeDrop(pool.close)
  db = pool.db
})

test('a database without a valid key says so', async () => {
  assert.equal(await hasKeys(db), false)
  const { id } = await createKey(db, { name: 'short-lived', scope: 'full' })
  assert.equal(await hasKeys(db), true)
  await database.query('update mail.api_key set revoked_at = now() where id = $1', [id])
  assert.equal(await hasKeys(db), false)
})

test('a new key has the format that scanners know, and identifies its holder', async () => {
  const { id, key } = await createKey(db, { name: 'shop', scope: 'send' })
  assert.match(key, FORMAT)
  assert.deepEqual(await new Keyring(db, undefined).identify(key), {
    keyId: id,
    name: 'shop',
    scope: 'send',
    streams: null,
    sender_domains: null,
    expires_at: null,
    rate_limit_per_s: null,
    rate_burst: null,
  })
})

test('of a key only the hash of its secret is stored', async () => {
  const { id, key } = await createKey(db, { name: 'stored', scope: 'full' })
  const [row] = await database.query<{ text: string; hash: Buffer }>(
    'select k::text as text, hash from mail.api_key k where id = $1',
    [id],
  )
  const secret = key.slice('sluice_'.length + 13, -8)
  assert.equal(row?.text.includes(secret), false)
  assert.equal(row?.text.includes(Buffer.from(secret).toString('hex')), false)
  assert.equal(row?.hash.length, 32)
})

test('a mistyped key is refused by its checksum, without asking the database', async () => {
  const { key } = await createKey(db, { name: 'typed', scope: 'full' })
  const asked: unknown[] = []
  const watching = db.withPlugin({
    transformQuery: ({ node }) => {
      asked.push(node)
      return node
    },
    transformResult: async ({ result }) => result,
  })
  const keyring = new Keyring(watching, undefined)
  const place = 30
  const typo = `${key.slice(0, place)}${key[place] === 'x' ? 'y' : 'x'}${key.slice(place + 1)}`
  assert.equal(await keyring.identify(typo), undefined)
  assert.deepEqual(asked, [])
  assert.ok(await keyring.identify(key))
  assert.equal(asked.length, 1)
})

test('wrong, unknown, revoked, expired and meaningless keys all look the same', async () => {
  const [shown, other, revoked, expired, unknown] = await Promise.all(
    ['shown', 'other', 'revoked', 'expired', 'unknown'].map((name) => createKey(db, { name, scope: 'full' })),
  )
  assert.ok(shown && other && revoked && expired && unknown)
  await database.query('update mail.api_key set revoked_at = now() where id = $1', [revoked.id])
  await database.query('update mail.api_key set expires_at = now() where id = $1', [expired.id])
  await database.query('delete from mail.api_key where id = $1', [unknown.id])
  // The secret of another key under this one's id, as its hash: valid in form, wrong in fact.
  await database.query(
    'update mail.api_key set hash = (select hash from mail.api_key where id = $1) where id = $2',
    [shown.id, other.id],
  )
  const keyring = new Keyring(db, undefined)
  for (const text of [
    other.key,
    revoked.key,
    expired.key,
    unknown.key,
    'sluice_',
    '',
    'x'.repeat(10_000),
    '\0',
  ]) {
    assert.equal(await keyring.identify(text), undefined, text.slice(0, 80))
  }
  assert.ok(await keyring.identify(shown.key))
})

test('a key that expires later is valid until then', async () => {
  const { id, key } = await createKey(db, { name: 'expiring', scope: 'read' })
  await database.query("update mail.api_key set expires_at = now() + interval '1 day' where id = $1", [id])
  assert.equal((await new Keyring(db, undefined).identify(key))?.scope, 'read')
})

test('the bootstrap key has full access and nothing near it has any', async () => {
  const keyring = new Keyring(db, 'bootstrap-0123456789')
  assert.equal((await keyring.identify('bootstrap-0123456789'))?.scope, 'full')
  for (const text of ['bootstrap-012345678', 'bootstrap-01234567890', 'Bootstrap-0123456789', ''])
    assert.equal(await keyring.identify(text), undefined)
  assert.equal(await new Keyring(db, undefined).identify('bootstrap-0123456789'), undefined)
})

test('a row that contradicts itself is refused by a rule that says why', async () => {
  for (const [rule, changes] of [
    ['only_a_send_key_is_bound_to_streams_or_domains', "streams = '{alerts}'"],
    ['only_a_send_key_is_bound_to_streams_or_domains', "sender_domains = '{example.com}'"],
    ['list_of_streams_is_not_empty', "scope = 'send', streams = '{}'"],
    ['sender_domains_are_plain_and_lower_case', "scope = 'send', sender_domains = '{Example.com}'"],
    ['sender_domains_are_plain_and_lower_case', "scope = 'send', sender_domains = '{a.example,NULL}'"],
    ['rate_burst_has_a_rate_limit', 'rate_burst = 5'],
    ['rate_limit_is_a_thousandth_to_a_million_a_second', "rate_limit_per_s = 'NaN'"],
    ['previous_secret_has_an_end', 'previous_hash = hash'],
    ['key_name_is_1_to_200_long', "name = ''"],
  ] as const) {
    const { id } = await createKey(db, { name: 'rules', scope: 'full' })
    await assert.rejects(
      database.query(`update mail.api_key set ${changes} where id = $1`, [id]),
      { constraint: rule },
      changes,
    )
  }
})
