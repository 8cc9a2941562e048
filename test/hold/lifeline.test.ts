/** What a database that went back in time is told by, case by case, and what is none. */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { test } from 'node:test'
import { copyTestDatabase, createTestDatabase, type TestDatabase } from '../support/database.ts'
import { orderMail } from '../support/service.ts'

type Look = { start: string; beat: string | null; held_because: string | null }
type Memory = { worker?: number; start?: string; beat?: string | number; claims?: readonly object[] }

async function look({ query }: Pick<TestDatabase, 'query'>, memory: Memory = {}): Promise<Look> {
  const { worker = null, start = null, beat = null, claims = [] } = memory
  const [seen] = await query<Look>(
    'select start::text, beat, held_because from mail.look_at_lifeline($1, $2, $3, $4)',
    [worker, start, beat, JSON.stringify(claims)],
  )
  assert.ok(seen)
  return seen
}

/** With one mail at the door: without any there is nothing to hold. */
async function databaseWithMail(t: Parameters<typeof createTestDatabase>[0]): Promise<TestDatabase> {
  const database = await createTestDatabase(t)
  await database.query('insert into mail.outbox (message) values ($1)', [JSON.stringify(orderMail())])
  return database
}

/** As if the server had been started again since the latest look, so long ago. */
async function startedAgain({ query }: TestDatabase, changes = 'true', agoS = 0): Promise<void> {
  await query(
    `update mail.lifeline set written_by = pg_current_xact_id(), postmaster_started_at = '2020-01-01',
       seen_at = clock_timestamp() - make_interval(secs => ${agoS})`,
  )
  await query(changes === 'true' ? 'select' : changes)
}

async function isOpen({ query }: Pick<TestDatabase, 'query'>): Promise<boolean> {
  const [row] = await query<{ open: boolean }>('select mail.sending_is_open() as open')
  return row?.open === true
}

const CRASHED = 'delete from mail.lifeline_canary'
const PROMOTED = "update mail.lifeline set written_by = pg_current_xact_id(), timeline = '00000009'"
const DAYS_S = 3 * 86_400

test('the first look takes the database as it is, and later ones beat', async (t) => {
  const database = await databaseWithMail(t)
  assert.equal(await isOpen(database), true)
  const first = await look(database)
  assert.deepEqual([first.beat, first.held_because], ['1', null])
  const again = await look(database, first as Memory)
  assert.equal(again.beat, '1')
  await database.query(
    "update mail.lifeline set written_by = pg_current_xact_id(), seen_at = seen_at - interval '1 s'",
  )
  assert.equal((await look(database, again as Memory)).beat, '2')
  assert.equal(await isOpen(database), true)
})

for (const { what, after, agoS } of [
  { what: 'a clean restart days later', after: 'true', agoS: DAYS_S },
  { what: 'a crash of Postgres', after: CRASHED, agoS: 60 },
  { what: 'a promoted standby', after: PROMOTED, agoS: 60 },
]) {
  test(`${what} is no reason to hold, and nothing may be claimed before somebody has looked`, async (t) => {
    const database = await databaseWithMail(t)
    await look(database)
    await startedAgain(database, after, agoS)
    assert.equal(await isOpen(database), false)
    const { beat, held_because: because } = await look(database)
    assert.deepEqual([beat, because], ['2', null])
    assert.equal(await isOpen(database), true)
  })
}

for (const { what, after } of [
  { what: 'left unlogged data out', after: CRASHED },
  { what: 'began another timeline', after: PROMOTED },
]) {
  test(`a start that ${what}, of a database last seen days ago, holds`, async (t) => {
    const database = await databaseWithMail(t)
    await look(database)
    await startedAgain(database, after, DAYS_S)
    const { held_because: because } = await look(database)
    assert.match(String(because), /its files come from .* or earlier/)
    assert.equal(await isOpen(database), false)
    // And once: the next look knows it.
    assert.equal((await look(database)).held_because, null)
  })
}

test('an outage of hours is no reason to hold where a process that lived through it misses nothing', async (t) => {
  const database = await databaseWithMail(t)
  const seen = await look(database)
  await startedAgain(database, CRASHED, 7_200)
  assert.equal((await look(database, { start: '2020-01-01', beat: seen.beat ?? '' })).held_because, null)
  assert.equal(await isOpen(database), true)
})

test('a process that remembers a later look than the database knows stops sending, once', async (t) => {
  const database = await databaseWithMail(t)
  const { start } = await look(database)
  const { held_because: because, beat } = await look(database, { start, beat: 40 })
  assert.match(String(because), /saw 39 looks later than this database knows/)
  await database.query("select mail.release('send')")
  const [after] = await database.query<{ held: boolean }>(
    'select held_because is not null as held from mail.look_at_lifeline(null, $1, 40, $2)',
    [start, '[]'],
  )
  assert.deepEqual([after?.held, Number(beat) > 40], [false, true])
})

test('a worker that remembers a claim of which the database knows nothing stops sending', async (t) => {
  const database = await databaseWithMail(t)
  const { start, beat } = await look(database)
  const claims = [{ id: randomUUID(), claimedAt: new Date().toISOString() }]
  // Only after a start of the server: what is erased while it runs was not lost.
  assert.equal((await look(database, { start, beat: beat ?? '', claims })).held_because, null)
  const lost = await look(database, { start: '2020-01-01', beat: beat ?? '', claims })
  assert.match(String(lost.held_because), /claimed mail of which this database knows nothing/)
})

test('after a crash the workers of the latest look are waited for, as long as the setting says', async (t) => {
  const database = await databaseWithMail(t)
  const seen = await look(database)
  const [worker] = await database.query<{ number: number }>(
    "insert into mail.worker (name) values ('elsewhere:1') returning number",
  )
  await startedAgain(database, CRASHED, 10)
  assert.equal((await look(database)).beat, null, 'it waits for the worker')
  assert.equal(await isOpen(database), false)
  const memory = { worker: worker?.number ?? 0, start: '2020-01-01', beat: seen.beat ?? '' }
  assert.equal((await look(database, memory)).held_because, null)
  assert.equal(await isOpen(database), true)

  await startedAgain(database, CRASHED, 10)
  assert.equal((await look(database)).beat, null)
  await database.query('update mail.hold_setting set witness_wait_s = 0')
  assert.notEqual((await look(database)).beat, null)
})

test('rows that were loaded from a dump hold, whatever else is the same', async (t) => {
  const database = await databaseWithMail(t)
  await look(database)
  await database.query('create table dumped as select * from mail.lifeline')
  await database.query('delete from mail.lifeline')
  await database.query('insert into mail.lifeline select * from dumped')
  await database.query('drop table dumped')
  assert.equal(await isOpen(database), false)
  assert.match(String((await look(database)).held_because), /loaded from a dump/)
})

test('a copy made from a template holds when mail waits in it, and only notes it when none does', async (t) => {
  for (const hasMail of [true, false]) {
    const database = hasMail ? await databaseWithMail(t) : await createTestDatabase(t)
    await look(database)
    const copy = await copyTestDatabase(database)
    assert.equal(await isOpen(copy), false)
    const { held_because: because } = await look(copy)
    if (hasMail) assert.match(String(because), /a copy of another database/)
    else assert.equal(because, null)
    assert.equal(await isOpen(copy), !hasMail)
    const [{ as } = { as: '' }] = await copy.query<{ as: string | null }>(
      'select released_as as "as" from mail.sending_hold',
    )
    assert.equal(as, hasMail ? null : 'nothing_waited')
  }
})

test('data of another server holds', async (t) => {
  const database = await databaseWithMail(t)
  await look(database)
  await startedAgain(
    database,
    "update mail.lifeline set written_by = pg_current_xact_id(), system_identifier = '1'",
  )
  assert.match(String((await look(database)).held_because), /on another server before/)
})

test('what a living worker had in hand before the database went back is given to one that is dead', async (t) => {
  const database = await databaseWithMail(t)
  await database.query("insert into mail.worker (name) values ('lives:1')")
  const [claim] = await database.query<{ id: string }>(
    `with job as (
       insert into pgboss.job (name, state) select 'dispatch.default.transactional', 'active' returning id
     )
     insert into mail.message (id, seq, accepted_at, priority, status, stream, provider, source, worker, claimed_at)
     select id, 1, now(), 3, 'sending', 'transactional', 'default', 'test', (select number from mail.worker), now() from job
     returning id`,
  )
  const { start } = await look(database)
  await startedAgain(database)
  await look(database, { start, beat: 40 })
  const [row] = await database.query<{ name: string }>(
    'select w.name from mail.message m join mail.worker w on w.number = m.worker where m.id = $1',
    [claim?.id],
  )
  assert.equal(row?.name, 'before the database went back in time')
})
