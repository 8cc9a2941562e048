/** Settings of the server, of a database and of a role that doctor knows to be wrong, each really set. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { Client } from 'pg'
import { checkConnections, checkLimits, checkMemory } from '../../src/doctor/capacity.ts'
import { checkClock } from '../../src/doctor/clock.ts'
import { checkDurability } from '../../src/doctor/durability.ts'
import { checkServer } from '../../src/doctor/server-version.ts'
import {
  checkOldTransactions,
  checkPrepared,
  checkTables,
  checkVacuum,
  wraparoundOf,
} from '../../src/doctor/vacuum.ts'
import { createTestDatabase, startTestPostgres, withDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { assertAllOk, assertFinding, openReader, setInDatabase } from './findings.ts'

const CONNECTIONS = {
  databaseConnections: 12,
  roles: new Set(['api', 'worker'] as const),
  sessionDatabaseUrl: undefined,
}

/** Closed when the test ends, whatever its server does. */
async function connectTo(url: string, beforeDrop: (close: () => Promise<unknown>) => void): Promise<Client> {
  const client = new Client({ connectionString: url })
  client.on('error', () => undefined)
  await client.connect()
  beforeDrop(() => client.end())
  return client
}

test('a server with every setting wrong is told of all of them', async (t) => {
  const server = await startTestPostgres(t, {
    fsync: 'off',
    full_page_writes: 'off',
    synchronous_commit: 'off',
    autovacuum: 'off',
    shared_buffers: '16MB',
    max_wal_size: '64MB',
    max_prepared_transactions: '5',
    max_connections: '20',
  })
  const closers: (() => Promise<unknown>)[] = []
  t.after(async () => {
    for (const close of closers) await close()
  })
  const beforeDrop = (close: () => Promise<unknown>) => closers.push(close)
  const client = await connectTo(server.url, beforeDrop)
  await client.query("select pg_create_physical_replication_slot('forgotten', true)")
  await client.query("begin; create table left_open (); prepare transaction 'forgotten'")
  await client.query("alter system set synchronous_standby_names = 'nobody'")
  await client.query('select pg_reload_conf()')
  await eventually('the setting is read', async () => {
    const { rows } = await client.query('show synchronous_standby_names')
    return rows[0]?.synchronous_standby_names === 'nobody'
  })
  const reader = await openReader({ url: server.url, beforeDrop })

  const durability = await checkDurability(reader)
  assertFinding(durability, 'fsync', 'problem', /power cut/)
  assertFinding(durability, 'full_page_writes', 'problem', /half written/)
  assertFinding(durability, 'synchronous_commit', 'warning', /off for this server/)
  assertFinding(durability, 'standbys', 'problem', /"nobody" and no such standby/)
  assertFinding(durability, 'replication slots', 'warning', /"forgotten", which keeps/)
  const memory = await checkMemory(reader)
  assertFinding(memory, 'shared_buffers', 'warning', /^16 MB/)
  assertFinding(memory, 'max_wal_size', 'warning', /^64 MB/)
  assertFinding(await checkVacuum(reader), 'autovacuum', 'problem', /^off/)
  assertAllOk(await checkPrepared(reader))
  assertFinding(
    await checkPrepared(reader, 0),
    'prepared transactions',
    'problem',
    /"forgotten" was prepared/,
  )
  assertFinding(
    await checkConnections(reader, CONNECTIONS),
    'connections',
    'warning',
    /: 1 process, and none beside it/,
  )
  assertFinding(
    await checkConnections(reader, { ...CONNECTIONS, databaseConnections: 40 }),
    'connections',
    'problem',
    /: 0 processes/,
  )
  // Behind a pooler only the session is our own.
  assertAllOk(
    await checkConnections(reader, { ...CONNECTIONS, databaseConnections: 40, sessionDatabaseUrl: 'x' }),
  )
})

test('a server as it comes has nothing wrong with it', async (t) => {
  const server = await startTestPostgres(t)
  const client = await connectTo(server.url, () => undefined)
  await client.end()
  const closers: (() => Promise<unknown>)[] = []
  const reader = await openReader({ url: server.url, beforeDrop: (close) => closers.push(close) })
  t.after(async () => {
    for (const close of closers) await close()
  })
  assertAllOk(await checkServer(reader))
  assertAllOk(await checkDurability(reader))
  assertAllOk(await checkMemory(reader))
  assertAllOk(await checkLimits(reader))
  assertAllOk(await checkConnections(reader, CONNECTIONS))
  assertAllOk(await checkVacuum(reader))
})

describe('what is set for a database or a role', () => {
  test('is found where it would stop mail', async (t) => {
    const database = await createTestDatabase(t)
    await setInDatabase(database, 'default_transaction_isolation', "'serializable'")
    await setInDatabase(database, 'default_transaction_read_only', 'on')
    const found = await checkServer(await openReader(database))
    assertFinding(found, 'primary', 'problem', /read-only by default/)
    assertFinding(found, 'isolation', 'problem', /serializable/)
  })

  test('is found where it ends what takes longer', async (t) => {
    const database = await createTestDatabase(t)
    await setInDatabase(database, 'statement_timeout', "'2s'")
    await setInDatabase(database, 'lock_timeout', "'500ms'")
    await setInDatabase(database, 'jit_above_cost', '10')
    await setInDatabase(database, 'jit', 'on')
    const reader = await openReader(database)
    const limits = await checkLimits(reader)
    assertFinding(limits, 'statement_timeout', 'warning', /^2000 ms/)
    assertFinding(limits, 'lock_timeout', 'warning', /^500 ms/)
    assertFinding(await checkMemory(reader), 'jit', 'warning', /above a cost of 10/)
  })

  test('is found where commits are relaxed, with whose they are', async (t) => {
    const database = await createTestDatabase(t)
    await setInDatabase(database, 'synchronous_commit', 'off')
    const name = new URL(database.url).pathname.slice(1)
    assertFinding(
      await checkDurability(await openReader(database)),
      'synchronous_commit',
      'warning',
      new RegExp(`off for every role in database ${name}`),
    )
  })

  test('is found where statistics are off, or a table is left out of vacuum', async (t) => {
    const database = await createTestDatabase(t)
    await database.query('alter table pgboss.queue set (autovacuum_enabled = false)')
    const reader = await openReader(database)
    assertFinding(await checkVacuum(reader), 'autovacuum', 'problem', /switched off for pgboss.queue/)
    await setInDatabase(database, 'track_counts', 'off')
    assertFinding(await checkVacuum(await openReader(database)), 'autovacuum', 'problem', /track_counts/)
  })

  test('a limit of connections counts', async (t) => {
    const database = await createTestDatabase(t)
    await database.query(`alter database ${new URL(database.url).pathname.slice(1)} connection limit 30`)
    const reader = await openReader(database)
    assertFinding(
      await checkConnections(reader, CONNECTIONS),
      'connections',
      'ok',
      /^room for 30; .* 2 processes$/,
    )
  })
})

test('a database in another encoding than UTF-8 is a problem', async (t) => {
  const database = await createTestDatabase(t)
  const name = `${new URL(database.url).pathname.slice(1)}_ascii`
  await database.query(`create database ${name} encoding 'SQL_ASCII' template template0 locale 'C'`)
  database.beforeDrop(() => database.query(`drop database ${name} with (force)`))
  const reader = await openReader({ ...database, url: withDatabase(database.url, name) })
  assertFinding(await checkServer(reader), 'encoding', 'problem', /SQL_ASCII/)
})

test('a transaction left open is named, with the way to end it', async (t) => {
  const database = await createTestDatabase(t)
  const open = await connectTo(`${database.url}?application_name=forgetful`, database.beforeDrop)
  await open.query('begin')
  const { rows } = await open.query<{ pid: number }>('select pg_backend_pid() as pid')
  const reader = await openReader(database)
  const found = await eventually('it is the oldest', async () =>
    (await checkOldTransactions(reader, 0)).find((each) => each.found.includes('forgetful')),
  )
  const finding = assertFinding(
    found,
    'oldest transaction',
    'warning',
    /idle in transaction.* holds vacuum back/,
  )
  assert.ok(finding.advice?.includes(`pg_terminate_backend(${rows[0]?.pid})`))
})

test('dead rows that nobody cleans away are counted', async (t) => {
  const database = await createTestDatabase(t)
  await database.query(
    `insert into mail.suppression (address, reason, source)
     select 'user' || n || '@example.com', 'manual', 'test' from generate_series(1, 200) n`,
  )
  await database.query('alter table mail.suppression set (autovacuum_enabled = false)')
  await database.query('delete from mail.suppression')
  const reader = await openReader(database)
  assertAllOk(await checkTables(reader))
  const found = await eventually('the deletes are counted', async () => {
    const findings = await checkTables(reader, 100)
    return findings.length > 0 && findings
  })
  assertFinding(
    found,
    'dead rows',
    'warning',
    /^mail.suppression has 200 dead rows beside 0 living ones, vacuumed never/,
  )
})

test('transaction ids that run out are told of in time', () => {
  assertAllOk(wraparoundOf(199_000_000))
  assertFinding(wraparoundOf(600_000_000), 'transaction ids', 'warning', /600 million old/)
  assertFinding(wraparoundOf(1_600_000_000), 'transaction ids', 'problem', /1,600 million old/)
})

test('a clock that differs is told of, and the time a question takes is no difference', async (t) => {
  const reader = await openReader(await createTestDatabase(t))
  assertAllOk(await checkClock(reader, Date.now))
  assertFinding(await checkClock(reader, () => Date.now() - 10_000), 'clock', 'warning', /10 s behind/)
  assertFinding(await checkClock(reader, () => Date.now() + 180_000), 'clock', 'problem', /3 min ahead of/)
  const looks = [Date.now() - 20_000, Date.now() + 20_000]
  assertAllOk(await checkClock(reader, () => looks.shift() ?? 0))
})
