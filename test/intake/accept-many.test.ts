import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import { Client } from 'pg'
import { ApiError } from '../../src/errors.ts'
import { acceptMany, type Many } from '../../src/intake/accept-many.ts'
import type { IntakeRow } from '../../src/intake/queries.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { countLockWaits } from '../support/lock-waits.ts'
import { orderMail } from '../support/service.ts'
import { intakeRow, openIntake } from './intake-stage.ts'

let database: TestDatabase
let intake: Awaited<ReturnType<typeof openIntake>>

before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  intake = await openIntake(database)
})

async function* inChunks(...chunks: IntakeRow[][]) {
  for (const chunk of chunks) yield chunk
}

function accept(rows: IntakeRow[], key: string | null, given = 'the same', changes: Partial<Many> = {}) {
  const seal = () => ({ fingerprint: Buffer.from(given), answer: { said: 'before' } })
  const deps = { db: intake.db, wakeMover: () => undefined }
  return acceptMany(deps, { key, chunks: inChunks(rows), seal, ...changes })
}

async function refusalOf(accepted: Promise<unknown>): Promise<ApiError> {
  const error = await accepted.then(
    () => assert.fail('it was accepted'),
    (reason: unknown) => reason,
  )
  assert.ok(error instanceof ApiError, String(error))
  return error
}

async function waiting(ids: readonly string[]): Promise<number> {
  return (await database.query('select from mail.outbox where id = any ($1)', [ids])).length
}

async function connected(work: (client: Client) => Promise<void>): Promise<void> {
  const client = new Client({ connectionString: database.url })
  await client.connect()
  try {
    await work(client)
  } finally {
    await client.end()
  }
}

test('rows of many pieces are committed together, and the mover is told afterwards', async () => {
  const chunks = [[intakeRow(), intakeRow()], [intakeRow()]]
  const ids = chunks.flat().map(({ id }) => id)
  let rung: Promise<number> | undefined
  const deps = {
    db: intake.db,
    wakeMover: () => {
      rung = waiting(ids)
    },
  }
  const seal = () => ({ fingerprint: Buffer.from('x'), answer: null })
  const accepted = await acceptMany(deps, { key: null, chunks: inChunks(...chunks), seal })
  assert.deepEqual(accepted, { ids, isReplay: false, answer: null })
  assert.equal(await rung, 3)
})

test('an error among the pieces leaves nothing behind, and the key is free', async () => {
  const rows = [intakeRow(), intakeRow()]
  const failing = async function* () {
    yield rows
    throw new ApiError('validation_error', 'the third is wrong')
  }
  const error = await refusalOf(accept([], 'half', 'the same', { chunks: failing() }))
  assert.equal(error.message, 'the third is wrong')
  assert.equal(await waiting(rows.map(({ id }) => id)), 0)
  assert.equal((await accept([intakeRow()], 'half')).isReplay, false)
})

test('a connection that dies before the commit leaves nothing, and the repeat is the first', async () => {
  const rows = [intakeRow()]
  const dying = async function* () {
    yield rows
    // The one that is in a transaction and waits for more of this.
    await database.query(
      "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and state = 'idle in transaction'",
    )
    yield [intakeRow()]
  }
  const error = await refusalOf(accept([], 'dies', 'the same', { chunks: dying() }))
  assert.deepEqual([error.code, error.retryAfterS], ['service_unavailable', 2])
  assert.match(error.message, /same Idempotency-Key/)
  assert.equal(await waiting(rows.map(({ id }) => id)), 0)
  assert.equal((await accept(rows, 'dies')).isReplay, false)
})

test('a repeat meets the first while that commits: it waits, and gets its answer', async () => {
  await connected(async (first) => {
    const id = intakeRow().id
    await first.query('begin')
    await first.query(
      `insert into mail.idempotency (scope, key, fingerprint, message_ids, answer, expires_at)
       values ('send', 'commits', $1, $2, '{"said":"first"}', now() + interval '1 day')`,
      [Buffer.from('the same'), [id]],
    )
    const rows = [intakeRow()]
    const repeat = accept(rows, 'commits')
    await eventually('the repeat waits for the first', async () => (await countLockWaits(first)) > 0)
    await first.query('commit')
    assert.deepEqual(await repeat, { ids: [id], isReplay: true, answer: { said: 'first' } })
    assert.equal(await waiting(rows.map((row) => row.id)), 0, 'what the repeat stored is taken back')
  })
})

test('a repeat whose first is not done in time is told so', async () => {
  await connected(async (first) => {
    await first.query('begin')
    await first.query(
      `insert into mail.idempotency (scope, key, fingerprint, message_ids, expires_at)
       values ('send', 'hangs', 'x', '{}', now() + interval '1 day')`,
    )
    const rows = [intakeRow()]
    const error = await refusalOf(accept(rows, 'hangs'))
    assert.deepEqual([error.code, error.status], ['concurrent_idempotent_requests', 409])
    assert.equal(await waiting(rows.map((row) => row.id)), 0)
  })
})

test('a key that mail.send gave to a message still in the outbox is taken', async () => {
  const [sent] = await database.query<{ id: string }>('select mail.send($1, $2) as id', [
    JSON.stringify(orderMail()),
    'at the door',
  ])
  const error = await refusalOf(accept([intakeRow()], 'at the door'))
  assert.equal(error.code, 'invalid_idempotent_request')
  while ((await waiting([sent?.id ?? ''])) > 0) await intake.move()
  const [row] = await database.query<{ status: string }>('select status from mail.message where id = $1', [
    sent?.id,
  ])
  assert.equal(row?.status, 'accepted', 'the message that mail.send promised')
})

test('mail.send under the key of a batch waits for it, and is refused', async () => {
  await accept([intakeRow()], 'batch first')
  await assert.rejects(
    database.query('select mail.send($1, $2)', [JSON.stringify(orderMail()), 'batch first']),
    { code: '23505', message: /used with another message/ },
  )
})
