import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Client } from 'pg'
import { openPool } from '../../src/db/pool.ts'
import { createLog } from '../../src/log.ts'
import { watchHeld } from '../../src/metrics/postgres.ts'
import { POSTGRES_STATE, readOne, SIZES } from '../../src/metrics/queries.ts'
import { createTestDatabase } from '../support/database.ts'

test('a transaction is as old as it has been seen to hold the same', () => {
  let ms = 0
  const heldFor = watchHeld(() => ms)
  assert.equal(heldFor('700'), 0)
  ms = 60_000
  assert.equal(heldFor('700'), 60)
  ms = 90_000
  assert.equal(heldFor('700'), 90)
  assert.equal(heldFor('812'), 0, 'it ended, and another is the oldest')
  ms = 95_000
  assert.equal(heldFor(null), 0)
  assert.equal(heldFor('812'), 0)
})

test('what another user holds is seen by the service with no more rights than it has', async (t) => {
  const database = await createTestDatabase(t)
  const log = createLog('silent')
  const { db, close } = openPool({ url: database.url, maxConnections: 2, role: 'mail_service', log })
  const other = new Client({ connectionString: database.url })
  await other.connect()
  database.beforeDrop(async () => {
    await other.end()
    await close()
  })
  await other.query('begin isolation level repeatable read')
  await other.query('select from mail.stream')
  await database.query('select pg_current_xact_id()')
  await database.query('select pg_current_xact_id()')
  const held = await readOne(db, POSTGRES_STATE)
  assert.notEqual(held.oldest_xmin, null)
  assert.ok(held.xmin_ages.session >= 2, `${held.xmin_ages.session} transactions`)
  assert.equal(held.xmin_ages.prepared_transaction, 0)
  assert.ok(held.connections >= 3 && held.max_connections >= held.connections)
  const message = held.tables.find(({ name }) => name === 'mail.message')
  assert.ok(message !== undefined && message.dead_rows >= 0)
  const { tables, database_bytes: bytes } = await readOne(db, SIZES)
  assert.equal(tables.length, held.tables.length)
  assert.ok(bytes > tables.reduce((sum, table) => sum + table.bytes, 0))
})
