import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { Client } from 'pg'
import { openPool } from '../../src/db/pool.ts'
import { WORKER_LOCK } from '../../src/db/session.ts'
import { createLog } from '../../src/log.ts'
import { Bells } from '../../src/queue/bells.ts'
import { startBoss } from '../../src/queue/boss.ts'
import { Rescuer } from '../../src/upkeep/rescue.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { deadLetterOf, eventTypesOf, readMessage } from '../support/messages.ts'

const GRACE_S = 3
const NOBODY = 0

async function createRescuer(database: TestDatabase) {
  const log = createLog('silent')
  const { pool, db, close } = openPool({ url: database.url, maxConnections: 2, role: undefined, log })
  const boss = await startBoss(pool, log)
  const bells = new Bells(pool, log)
  bells.hasPeers = false
  const rescuer = new Rescuer({ db, boss, bells, log, worker: () => NOBODY })
  database.beforeDrop(async () => {
    await boss.stop({ graceful: false })
    await close()
  })
  return rescuer
}

/** As if so much time had gone by since the locks were found free. */
async function pass({ query }: TestDatabase, seconds: number): Promise<void> {
  await query('update mail.worker set free_since = free_since - make_interval(secs => $1)', [seconds])
}

async function registerWorker({ query }: TestDatabase): Promise<number> {
  const [row] = await query<{ number: number }>(
    "insert into mail.worker (name) values ('elsewhere:1') returning number",
  )
  return row?.number ?? 0
}

/** A connection that holds the lock of a worker, as a living one does. */
async function live(t: TestContext, database: TestDatabase, worker: number): Promise<() => Promise<void>> {
  const client = new Client({ connectionString: database.url })
  await client.connect()
  await client.query(
    `with mine as (update mail.worker set backend_pid = pg_backend_pid() where number = $2 returning lock_key)
     select pg_advisory_lock($1, lock_key) from mine`,
    [WORKER_LOCK, worker],
  )
  let ended: Promise<void> | undefined
  const die = () => {
    ended ??= client.end()
    return ended
  }
  database.beforeDrop(die)
  t.after(die)
  return die
}

/** A message in the middle of an attempt, with its job. */
async function sending(
  { query }: TestDatabase,
  worker: number,
  stream: string,
  attempts: number,
): Promise<string> {
  const [row] = await query<{ id: string }>(
    `with message as (
       insert into mail.message (id, seq, accepted_at, priority, status, stream, provider, source, worker, attempts)
       values (mail.uuid7(), nextval('mail.message_seq'), now(), 4, 'sending', $2, 'default', 'test', $1, $3)
       returning id
     ), job as (
       insert into pgboss.job (id, name, data, priority, state, started_on, retry_limit, policy)
       select message.id, name, '{}', 5, 'active', now(), q.retry_limit, q.policy
       from message, pgboss.queue q where name = 'dispatch.default.' || $2
     )
     select id from message`,
    [worker, stream, attempts],
  )
  return row?.id ?? ''
}

/** A batch in the middle of processing. */
async function processing({ query }: TestDatabase, worker: number): Promise<string> {
  const [row] = await query<{ id: string }>(
    `insert into pgboss.job (name, data, priority, state, started_on, retry_limit, policy)
     select name, '{"ids":[]}', 5, 'active', now(), retry_limit, policy from pgboss.queue where name = 'process.alerts'
     returning id`,
  )
  await query("insert into mail.claim (queue, job_id, worker) values ('process.alerts', $1, $2)", [
    row?.id,
    worker,
  ])
  return row?.id ?? ''
}

async function jobOf({ query }: TestDatabase, id: string) {
  const [job] = await query<{ state: string; priority: number }>(
    'select state::text, priority from pgboss.job where id = $1',
    [id],
  )
  return job
}

test('what a dead worker held moves again after the grace: sent again, held, or dead, as its stream says', async (t) => {
  const database = await createTestDatabase(t)
  const rescuer = await createRescuer(database)
  const worker = await registerWorker(database)
  const again = await sending(database, worker, 'transactional', 1)
  const last = await sending(database, worker, 'transactional', 3)
  const held = await sending(database, worker, 'marketing', 1)
  const batch = await processing(database, worker)

  assert.equal(await rescuer.look(), 0)
  await pass(database, GRACE_S - 1)
  await rescuer.look()
  assert.equal((await readMessage(database, again))?.status, 'sending')
  assert.equal((await jobOf(database, batch))?.state, 'active')
  await pass(database, 1)
  await rescuer.look()

  const rows = await Promise.all([again, last, held].map((id) => readMessage(database, id)))
  assert.deepEqual(
    rows.map((row) => [row?.status, row?.worker, row?.last_error]),
    [
      ['queued', null, 'worker_died'],
      ['dead', null, 'worker_died'],
      ['unknown', null, 'worker_died'],
    ],
  )
  assert.deepEqual(await eventTypesOf(database, again), ['recovered'])
  assert.deepEqual(await eventTypesOf(database, held), ['unknown'])
  assert.deepEqual(await jobOf(database, again), { state: 'created', priority: 5 })
  assert.equal(await jobOf(database, last), undefined)
  assert.equal(await jobOf(database, held), undefined)
  assert.equal((await jobOf(database, batch))?.state, 'retry')
  assert.deepEqual(await database.query('select from mail.claim'), [])
  assert.deepEqual(await database.query('select from mail.worker'), [])
  const letter = await deadLetterOf(database, last)
  assert.deepEqual([letter.stage, letter.code], ['dispatch', 'worker_died'])
})

test('what a living worker holds is not touched, however long it takes', async (t) => {
  const database = await createTestDatabase(t)
  const rescuer = await createRescuer(database)
  const worker = await registerWorker(database)
  const die = await live(t, database, worker)
  const id = await sending(database, worker, 'transactional', 1)
  assert.equal(await rescuer.look(), 1)
  await pass(database, 100 * GRACE_S)
  assert.equal(await rescuer.look(), 1)
  assert.equal((await readMessage(database, id))?.status, 'sending')
  await die()
  assert.equal(await rescuer.look(), 0)
  await pass(database, GRACE_S)
  await rescuer.look()
  assert.equal((await readMessage(database, id))?.status, 'queued')
})

test('a lock in the hands of another session keeps nobody alive', async (t) => {
  const database = await createTestDatabase(t)
  const rescuer = await createRescuer(database)
  const worker = await registerWorker(database)
  const die = await live(t, database, worker)
  const id = await sending(database, worker, 'transactional', 1)
  const other = new Client({ connectionString: database.url })
  await other.connect()
  database.beforeDrop(() => other.end())
  const [row] = await database.query<{ lock_key: number }>('select lock_key from mail.worker')
  // It queues for the lock, which whoever can connect sees in pg_locks, and has it when the worker dies.
  const taken = other.query('select pg_advisory_lock($1, $2)', [WORKER_LOCK, row?.lock_key])
  assert.equal(await rescuer.look(), 1)
  await die()
  await taken
  assert.equal(await rescuer.look(), 0)
  await pass(database, GRACE_S)
  await rescuer.look()
  assert.equal((await readMessage(database, id))?.status, 'queued')
})

test('a worker that comes back within the grace keeps its work, and its next absence is counted anew', async (t) => {
  const database = await createTestDatabase(t)
  const rescuer = await createRescuer(database)
  const worker = await registerWorker(database)
  const id = await sending(database, worker, 'transactional', 1)
  await rescuer.look()
  const die = await live(t, database, worker)
  await pass(database, GRACE_S)
  assert.equal(await rescuer.look(), 1)
  await die()
  await pass(database, GRACE_S)
  await rescuer.look()
  assert.equal((await readMessage(database, id))?.status, 'sending')
  await pass(database, GRACE_S)
  await rescuer.look()
  assert.equal((await readMessage(database, id))?.status, 'queued')
})

test('a worker that was back between two looks keeps its work: its grace begins anew', async (t) => {
  const database = await createTestDatabase(t)
  const rescuer = await createRescuer(database)
  const worker = await registerWorker(database)
  const id = await sending(database, worker, 'transactional', 1)
  await rescuer.look()
  // It came back and went again, and nobody looked meanwhile.
  await database.query('update mail.worker set lock_key = default, free_since = null where number = $1', [
    worker,
  ])
  await pass(database, GRACE_S)
  await rescuer.look()
  assert.equal((await readMessage(database, id))?.status, 'sending')
  await pass(database, GRACE_S)
  await rescuer.look()
  assert.equal((await readMessage(database, id))?.status, 'queued')
})

test('a claim that commits while its worker is rescued is rescued with the rest', async (t) => {
  const database = await createTestDatabase(t)
  const rescuer = await createRescuer(database)
  const worker = await registerWorker(database)
  const id = await sending(database, worker, 'transactional', 1)
  await database.query("update mail.message set status = 'queued', worker = null where id = $1", [id])
  const client = new Client({ connectionString: database.url })
  await client.connect()
  database.beforeDrop(() => client.end())
  await client.query('begin')
  await client.query('select from mail.worker where number = $1 for key share', [worker])
  await client.query("update mail.message set status = 'sending', worker = $1 where id = $2", [worker, id])
  await rescuer.look()
  await pass(database, GRACE_S)
  const rescue = rescuer.look()
  await client.query('commit')
  await rescue
  assert.deepEqual((await readMessage(database, id))?.status, 'queued')
  assert.deepEqual(await eventTypesOf(database, id), ['recovered'])
})

test('the grace that one rescuer began is ended by another, and a clock that was set back begins it anew', async (t) => {
  const database = await createTestDatabase(t)
  const worker = await registerWorker(database)
  const id = await sending(database, worker, 'transactional', 1)
  const [first, second] = [await createRescuer(database), await createRescuer(database)]
  await first.look()
  await pass(database, -3_600)
  await second.look()
  assert.equal((await readMessage(database, id))?.status, 'sending')
  await pass(database, GRACE_S)
  await second.look()
  assert.equal((await readMessage(database, id))?.status, 'queued')
})
