import assert from 'node:assert/strict'
import { test } from 'node:test'
import { sql } from 'kysely'
import { startSilentProxy } from '../../scripts/failure/silent-proxy.ts'
import { ConnectionError } from '../../src/db/connection-error.ts'
import { type Database, openPool } from '../../src/db/pool.ts'
import { createLog } from '../../src/log.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { OF_THIS_DATABASE } from '../support/lock-waits.ts'

/** Less than the 30 s after which any statement is given up. */
const LIMIT = { timeout: 28_000 }

function open(database: TestDatabase, url: string, role: string | undefined): Database {
  const log = createLog('silent')
  const { db, close } = openPool({ url, maxConnections: 3, role, log, doubtMs: 200 })
  database.beforeDrop(close)
  return db
}

test('a statement that the server is at work on is waited for', LIMIT, async (t) => {
  const database = await createTestDatabase(t)
  const db = open(database, database.url, 'mail_service')
  const { rows } = await sql<{ slept: boolean }>`select pg_sleep(2.5) is not null as slept`.execute(db)
  assert.deepEqual(rows, [{ slept: true }])
})

test(
  'a connection that is silent is given up, with what it held on the server and with those beside it',
  LIMIT,
  async (t) => {
    const database = await createTestDatabase(t)
    const proxy = await startSilentProxy({ after: database.beforeDrop }, database.url)
    const db = open(database, proxy.url, 'mail_service')
    const holding = async () => {
      const found = await database.query(
        `select from pg_locks
         where relation = 'mail.stream'::regclass and ${OF_THIS_DATABASE}`,
      )
      return found.length
    }
    const lost = db.transaction().execute(async (trx) => {
      await sql`select from mail.stream for update`.execute(trx)
      // Two more connections, at rest when the silence comes.
      await Promise.all([sql`select 1`.execute(db), sql`select 1`.execute(db)])
      proxy.silence('forgotten')
      proxy.heal()
      await sql`select 1`.execute(trx)
    })
    await assert.rejects(lost, ConnectionError)
    await eventually('its locks are free', async () => (await holding()) === 0)
    await eventually('nothing silent is kept', async () => proxy.silent() === 0)
    assert.equal((await sql`select 1`.execute(db)).rows.length, 1)
  },
)
