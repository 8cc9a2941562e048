import assert from 'node:assert/strict'
import { test } from 'node:test'
import { sql } from 'kysely'
import { Client, escapeIdentifier } from 'pg'
import { ConnectionError, isDatabaseUnavailable } from '../../src/db/connection-error.ts'
import { type Database, openPool, type PoolOptions } from '../../src/db/pool.ts'
import { createLog } from '../../src/log.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'

function open(database: TestDatabase, changes: Partial<PoolOptions> = {}): Database {
  const log = createLog('silent')
  const { db, close } = openPool({
    url: database.url,
    maxConnections: 1,
    role: undefined,
    log,
    ...changes,
  })
  database.beforeDrop(close)
  return db
}

async function settingOf(db: Database, name: string): Promise<string | undefined> {
  const { rows } = await sql<{ value: string }>`select current_setting(${name}) as value`.execute(db)
  return rows[0]?.value
}

test('the server watches over the connection, ends what hangs, and keeps the options of the URL', async (t) => {
  const database = await createTestDatabase(t)
  const url = new URL(database.url)
  url.searchParams.set('options', '-c work_mem=5MB -c TimeZone=Asia/Tokyo')
  const db = open(database, { url: url.href, role: 'mail_service' })
  const expected = {
    tcp_keepalives_idle: '3',
    tcp_keepalives_interval: '1',
    tcp_keepalives_count: '3',
    tcp_user_timeout: '6000',
    statement_timeout: '25s',
    idle_in_transaction_session_timeout: '10s',
    idle_session_timeout: '1min',
    role: 'mail_service',
    work_mem: '5MB',
    TimeZone: 'Asia/Tokyo',
  }
  const found: Record<string, string | undefined> = {}
  for (const name of Object.keys(expected)) found[name] = await settingOf(db, name)
  assert.deepEqual(found, expected)
})

test('commits are durable in a database that was told otherwise, and relaxed only where asked for', async (t) => {
  const database = await createTestDatabase(t)
  const name = escapeIdentifier(new URL(database.url).pathname.slice(1))
  await database.query(`alter database ${name} set synchronous_commit = off`)
  const db = open(database)
  assert.equal(await settingOf(db, 'synchronous_commit'), 'on')
  await db.transaction().execute(async (trx) => {
    await sql`select set_config('synchronous_commit', 'off', true)`.execute(trx)
    assert.equal(await settingOf(trx, 'synchronous_commit'), 'off')
  })
  assert.equal(await settingOf(db, 'synchronous_commit'), 'on')
})

test('a database that asks for more than a durable commit gets it', async (t) => {
  const database = await createTestDatabase(t)
  const name = escapeIdentifier(new URL(database.url).pathname.slice(1))
  await database.query(`alter database ${name} set synchronous_commit = remote_apply`)
  assert.equal(await settingOf(open(database), 'synchronous_commit'), 'remote_apply')
})

test('a statement without an answer costs its connection, in a transaction as well', async (t) => {
  const database = await createTestDatabase(t)
  const blocker = new Client({ connectionString: database.url })
  await blocker.connect()
  database.beforeDrop(() => blocker.end())
  await blocker.query('begin')
  await blocker.query('lock table mail.stream')
  const db = open(database, { queryTimeoutMs: 200 })
  const stuck = () => db.transaction().execute((trx) => trx.selectFrom('mail.stream').selectAll().execute())
  await assert.rejects(stuck, ConnectionError)
  // The only connection of this pool: it would wait behind the statement that hangs.
  assert.equal((await sql`select 1`.execute(db)).rows.length, 1)
})

test('errors of the connection are told from those of a statement and of our own code', async (t) => {
  const database = await createTestDatabase(t)
  const gone = open(database, { url: 'postgresql://sluice@127.0.0.1:1/none' })
  await assert.rejects(sql`select 1`.execute(gone), ConnectionError)
  const db = open(database)
  const wrong = await errorOf(sql`select 1 / 0`.execute(db))
  assert.deepEqual([wrong instanceof ConnectionError, isDatabaseUnavailable(wrong)], [false, false])
  for (const error of [new Error('no code'), new TypeError('ours')])
    assert.equal(isDatabaseUnavailable(error), false)
  const suicide = sql`select pg_terminate_backend(pg_backend_pid())`.execute(db)
  assert.equal(isDatabaseUnavailable(await errorOf(suicide)), true)
})

test('a disk that is full or fails is the database being unavailable, and the log says once what is wrong', async (t) => {
  const database = await createTestDatabase(t)
  const lines: { level: string; code?: string; msg: string }[] = []
  const log = createLog('warn', (line) => lines.push(JSON.parse(line)))
  const { db, close } = openPool({ url: database.url, maxConnections: 1, role: undefined, log })
  database.beforeDrop(close)
  for (const code of ['53100', '53100', '58030', '53100']) {
    const statement = `do $$ begin raise exception using errcode = '${code}', message = 'said by a test'; end $$`
    assert.equal(isDatabaseUnavailable(await errorOf(sql.raw(statement).execute(db))), true, code)
  }
  assert.deepEqual(
    lines.map(({ level, code }) => [level, code]),
    [
      ['error', '53100'],
      ['error', '58030'],
    ],
  )
  assert.match(lines[0]?.msg ?? '', /no room on its disk/)
  assert.equal(isDatabaseUnavailable({ severity: 'PANIC', code: 'XX000' }), true)
})

test('a pool without a free connection is a failed connection', async (t) => {
  const database = await createTestDatabase(t)
  const db = open(database)
  await db.connection().execute(async () => {
    await assert.rejects(sql`select 1`.execute(db), ConnectionError)
  })
})

function errorOf(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    () => assert.fail('it succeeded'),
    (error: unknown) => error,
  )
}
