import assert from 'node:assert/strict'
import { before, describe, test } from 'node:test'
import type { Database } from '../../src/db/pool.ts'
import { openPool } from '../../src/db/pool.ts'
import { KeyUse } from '../../src/keys/key-use.ts'
import { Keyring } from '../../src/keys/keyring.ts'
import { createKey, revokeKey, rotateKey } from '../../src/keys/keys.ts'
import { createLog } from '../../src/log.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'

const MEMORY_MS = 2_000
const log = createLog('silent')

let database: TestDatabase
let db: Database

before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  const pool = openPool({ url: database.url, maxConnections: 4, role: undefined, log })
  database.beforeDrop(pool.close)
  db = pool.db
})

/** A keyring whose clock the test moves, and how often it asked the database. */
function openKeyring(onUse: (keyId: string) => void = () => undefined) {
  let now = 1_000_000
  let asked = 0
  const counting = db.withPlugin({
    transformQuery: ({ node }) => {
      asked += 1
      return node
    },
    transformResult: async ({ result }) => result,
  })
  const keyring = new Keyring(counting, undefined, { onUse, now: () => now })
  return {
    keyring,
    later: (ms: number) => {
      now += ms
    },
    asked: () => asked,
  }
}

describe('a verdict is remembered', () => {
  test('for two seconds: by then every process knows that a key is revoked', async () => {
    const { id, key } = await createKey(db, { name: 'leaked', scope: 'full' })
    const [here, there] = [openKeyring(), openKeyring()]
    for (const { keyring } of [here, there]) assert.equal((await keyring.identify(key))?.keyId, id)
    assert.equal(await revokeKey(db, id), true)
    here.keyring.forget(id)
    assert.equal(await here.keyring.identify(key), undefined, 'at once where it was revoked')
    there.later(MEMORY_MS - 1)
    assert.equal((await there.keyring.identify(key))?.keyId, id)
    there.later(1)
    assert.equal(await there.keyring.identify(key), undefined)
  })

  test('and counts from before the database was asked', async () => {
    const { key } = await createKey(db, { name: 'slow', scope: 'full' })
    const { keyring, later, asked } = openKeyring()
    const answering = keyring.identify(key)
    later(MEMORY_MS)
    await answering
    await keyring.identify(key)
    assert.equal(asked(), 2)
  })

  test('and shared by all requests that come meanwhile', async () => {
    const { id, key } = await createKey(db, { name: 'busy', scope: 'full' })
    const { keyring, asked } = openKeyring()
    const callers = await Promise.all(Array.from({ length: 20 }, () => keyring.identify(key)))
    assert.ok(callers.every((caller) => caller?.keyId === id))
    assert.equal(asked(), 1)
  })

  test('and not when the database could not be asked', async () => {
    const { id, key } = await createKey(db, { name: 'patient', scope: 'full' })
    const pool = openPool({ url: database.url, maxConnections: 1, role: undefined, log })
    const keyring = new Keyring(pool.db, undefined)
    await database.query('alter table mail.api_key rename to api_key_away')
    await assert.rejects(keyring.identify(key))
    await database.query('alter table mail.api_key_away rename to api_key')
    assert.equal((await keyring.identify(key))?.keyId, id)
    await pool.close()
  })
})

test('a key that has expired is unknown, by the clock of the database', async () => {
  const { key } = await createKey(db, {
    name: 'over',
    scope: 'full',
    expires_at: new Date(Date.now() - 1),
  })
  assert.equal(await openKeyring().keyring.identify(key), undefined)
})

test('nobody is asked about a key that was never right, when nobody may be', async () => {
  const { id, key } = await createKey(db, { name: 'known', scope: 'full' })
  const { keyring, later, asked } = openKeyring()
  assert.equal(await keyring.identify(key, { mayAsk: false }), undefined)
  assert.equal(asked(), 0)
  assert.equal((await keyring.identify(key))?.keyId, id)
  later(MEMORY_MS)
  assert.equal((await keyring.identify(key, { mayAsk: false }))?.keyId, id, 'it was right before')
  assert.equal(asked(), 2)
  keyring.forget(id)
  assert.equal((await keyring.identify(key, { mayAsk: false }))?.keyId, id, 'also after a change')
  await revokeKey(db, id)
  later(MEMORY_MS)
  for (const mayAsk of [false, true, false]) assert.equal(await keyring.identify(key, { mayAsk }), undefined)
  assert.equal(asked(), 4, 'once it was wrong, it is as any other')
})

describe('rotation', () => {
  test('gives a new secret, and the old one works until the overlap is over', async () => {
    const { id, key: first } = await createKey(db, { name: 'rotated', scope: 'send' })
    const rotated = await rotateKey(db, { id, overlapS: 3_600 })
    assert.ok(rotated)
    const isValid = async (key: string) => (await openKeyring().keyring.identify(key))?.keyId === id
    assert.deepEqual([await isValid(first), await isValid(rotated.key)], [true, true])
    await database.query('update mail.api_key set previous_expires_at = now() where id = $1', [id])
    assert.deepEqual([await isValid(first), await isValid(rotated.key)], [false, true])
  })

  test('keeps one secret from before, not two', async () => {
    const { id, key: first } = await createKey(db, { name: 'twice', scope: 'send' })
    const second = await rotateKey(db, { id, overlapS: 3_600 })
    const third = await rotateKey(db, { id, overlapS: 3_600 })
    const { keyring } = openKeyring()
    assert.equal(await keyring.identify(first), undefined)
    assert.ok(await keyring.identify(second?.key ?? ''))
    assert.ok(await keyring.identify(third?.key ?? ''))
  })

  test('without overlap ends the old secret, and a revoked key has none', async () => {
    const { id, key: first } = await createKey(db, { name: 'at once', scope: 'send' })
    const second = await rotateKey(db, { id, overlapS: 0 })
    assert.equal(await openKeyring().keyring.identify(first), undefined)
    assert.ok(await openKeyring().keyring.identify(second?.key ?? ''))
    await rotateKey(db, { id, overlapS: 60 })
    await revokeKey(db, id)
    assert.equal(await openKeyring().keyring.identify(second?.key ?? ''), undefined)
    assert.equal(await rotateKey(db, { id, overlapS: 60 }), undefined)
  })
})

describe('the last use of a key', () => {
  const lastUse = async (id: string) => {
    const [row] = await database.query<{ last_used_at: Date | null }>(
      'select last_used_at from mail.api_key where id = $1',
      [id],
    )
    return row?.last_used_at ?? null
  }

  test('is written for many keys at once, and for each at most once a minute', async () => {
    const keys = await Promise.all(['a', 'b'].map((name) => createKey(db, { name, scope: 'send' })))
    const [one, other] = keys
    assert.ok(one && other)
    let now = 1_000_000
    const statements: unknown[] = []
    const counting = db.withPlugin({
      transformQuery: ({ node }) => {
        statements.push(node)
        return node
      },
      transformResult: async ({ result }) => result,
    })
    const use = new KeyUse(counting, log, () => now)
    const { keyring } = openKeyring((keyId) => use.note(keyId))
    for (const { key } of [one, other, one, other]) await keyring.identify(key)
    assert.equal(await lastUse(one.id), null, 'not in the way of the request')
    await use.write()
    assert.equal(statements.length, 1)
    assert.ok((await lastUse(one.id)) && (await lastUse(other.id)))

    await database.query("update mail.api_key set last_used_at = now() - interval '1 hour' where id = $1", [
      one.id,
    ])
    const anHourAgo = await lastUse(one.id)
    await keyring.identify(one.key)
    await use.write()
    assert.deepEqual([statements.length, await lastUse(one.id)], [1, anHourAgo])
    now += 60_000
    await keyring.identify(one.key)
    await use.write()
    assert.ok(((await lastUse(one.id)) ?? 0) > (anHourAgo ?? 0))
  })

  test('is left alone where another process wrote it just now', async () => {
    const { id } = await createKey(db, { name: 'shared', scope: 'send' })
    for (const use of [new KeyUse(db, log), new KeyUse(db, log)]) {
      const before = await lastUse(id)
      use.note(id)
      await use.write()
      if (before !== null) assert.deepEqual(await lastUse(id), before)
    }
  })

  test('waits for the next use when it cannot be written', async () => {
    const { id } = await createKey(db, { name: 'unlucky', scope: 'send' })
    const pool = openPool({ url: database.url, maxConnections: 1, role: undefined, log })
    const use = new KeyUse(pool.db, log)
    await database.query('alter table mail.api_key rename to api_key_away')
    use.note(id)
    await use.write()
    await database.query('alter table mail.api_key_away rename to api_key')
    use.note(id)
    await use.write()
    assert.ok(await lastUse(id))
    await pool.close()
  })
})
