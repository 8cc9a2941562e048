import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import type { QueryResult, RootOperationNode, UnknownRow } from 'kysely'
import type { Database } from '../../src/db/pool.ts'
import { ApiError } from '../../src/errors.ts'
import { appendToIntake } from '../../src/intake/queries.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { orderMail } from '../support/service.ts'
import { intakeRow, openIntake, statusOf, whileLocked } from './intake-stage.ts'

/** Long enough for the append, too short for anybody to move the row. */
const IMPATIENT_MS = 50

let database: TestDatabase
let intake: Awaited<ReturnType<typeof openIntake>>

before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  intake = await openIntake(database)
})

test('a buffered answer waits for nothing but the append', async () => {
  const { acceptor } = intake.openDesk()
  const row = intakeRow()
  const accepted = await acceptor.accept(row, { mayBuffer: true, timeoutMs: 10_000 })
  assert.deepEqual(accepted, { id: row.id, durability: 'buffered', isReplay: false })
  assert.equal((await database.query('select 1 from mail.intake where id = $1', [row.id])).length, 1)
  await intake.move()
})

test('a caller with a key who allows it is answered buffered when the time is over', async () => {
  const { acceptor } = intake.openDesk()
  const row = intakeRow({ idempotencyKey: 'impatient' })
  const accepted = await acceptor.accept(row, { mayBuffer: true, timeoutMs: IMPATIENT_MS })
  assert.deepEqual(accepted, { id: row.id, durability: 'buffered', isReplay: false })
  await intake.move()
})

test('a row that another process moved is answered durable', async () => {
  const row = intakeRow({ idempotencyKey: 'moved elsewhere' })
  const accepted = await acceptAndMoveElsewhere(row)
  assert.deepEqual(accepted, { id: row.id, durability: 'durable', isReplay: false })
})

test('a row that another process is still moving is not answered durable', async () => {
  const { acceptor, woken } = intake.openDesk()
  const row = intakeRow({ idempotencyKey: 'moving elsewhere' })
  const accepted = acceptor.accept(row, { mayBuffer: true, timeoutMs: 600 })
  await untilAppended(woken)
  await intake.db
    .transaction()
    .execute(async (trx) => {
      await trx.deleteFrom('mail.intake').where('id', '=', row.id).execute()
      assert.equal((await accepted).durability, 'buffered')
      throw new Error('the other process died')
    })
    .catch((error: Error) => assert.equal(error.message, 'the other process died'))
  await intake.move()
  assert.deepEqual(await statusOf(database, row.id), ['accepted'])
})

test('a repeat that another process moved is answered with the first message', async () => {
  const first = intakeRow({ idempotencyKey: 'elsewhere' })
  await acceptAndMoveElsewhere(first)
  const repeat = intakeRow({ idempotencyKey: 'elsewhere' })
  assert.deepEqual(await acceptAndMoveElsewhere(repeat), {
    id: first.id,
    durability: 'durable',
    isReplay: true,
  })
  assert.deepEqual(await statusOf(database, repeat.id), [])
})

test('a key used with another message is a conflict, whichever process moved it', async () => {
  await acceptAndMoveElsewhere(intakeRow({ idempotencyKey: 'conflict' }))
  const other = intakeRow({ idempotencyKey: 'conflict', message: orderMail({ subject: 'Another' }) })
  const error = await refusalOf(acceptAndMoveElsewhere(other))
  assert.deepEqual([error.code, error.status], ['invalid_idempotent_request', 409])
  assert.deepEqual(
    await statusOf(database, other.id),
    [],
    'its caller heard of it: nothing is left for a person to do',
  )
})

test('a conflict found when its caller is long gone is kept as a dead letter', async () => {
  await acceptAndMoveElsewhere(intakeRow({ idempotencyKey: 'late conflict' }))
  const late = intakeRow({ idempotencyKey: 'late conflict', message: orderMail({ subject: 'Late' }) })
  await appendToIntake(intake.db, [late], intake.process)
  await database.query("update mail.intake set received_at = now() - interval '1 minute' where id = $1", [
    late.id,
  ])
  await intake.move()
  assert.deepEqual(await statusOf(database, late.id), ['dead'])
})

test('a message that another process refused is answered with the reason', async () => {
  const error = await refusalOf(
    acceptAndMoveElsewhere(intakeRow({ stream: 'nowhere', idempotencyKey: 'nowhere' })),
  )
  assert.equal(error.code, 'validation_error')
  assert.match(error.message, /Invalid `stream`: there is no stream `nowhere`/)
})

test('requests of one moment are appended in few statements', async () => {
  const { db, statements } = watched(intake.db)
  const { acceptor } = intake.openDesk({ db })
  const rows = Array.from({ length: 300 }, () => intakeRow())
  const accepted = await Promise.all(
    rows.map((row) => acceptor.accept(row, { mayBuffer: true, timeoutMs: 10_000 })),
  )
  assert.deepEqual(
    accepted.map(({ id }) => id),
    rows.map(({ id }) => id),
  )
  assert.ok(statements.length <= 3, `300 rows took ${statements.length} statements`)
  const [count] = await database.query<{ count: number }>(
    'select count(*)::integer from mail.intake where id = any ($1)',
    [rows.map(({ id }) => id)],
  )
  assert.equal(count?.count, 300)
  await intake.move()
})

test('a burst of large mail is spread over statements of bounded size', async () => {
  const { db, statements } = watched(intake.db)
  const { acceptor } = intake.openDesk({ db })
  const html = 'x'.repeat(5_000_000)
  await Promise.all(
    Array.from({ length: 9 }, () =>
      acceptor.accept(intakeRow({ message: orderMail({ html }) }), { mayBuffer: true, timeoutMs: 10_000 }),
    ),
  )
  assert.ok(Math.max(...statements) < 17_000_000, `statements of ${statements.join(', ')} characters`)
  assert.equal(
    statements.reduce((sum, chars) => sum + Math.floor(chars / 5_000_000), 0),
    9,
  )
  await moveAll()
})

test('the time a caller waits covers the append, and a row that never left for the database is never sent', async () => {
  const { acceptor } = intake.openDesk()
  const [left, kept] = [intakeRow(), intakeRow()]
  await whileLocked(database, 'mail.intake', async () => {
    const impatient = { mayBuffer: true, timeoutMs: IMPATIENT_MS }
    const refusals = await Promise.all([left, kept].map((row) => refusalOf(acceptor.accept(row, impatient))))
    assert.deepEqual(
      refusals.map(({ code }) => code),
      ['service_unavailable', 'service_unavailable'],
    )
    assert.match(refusals[0]?.message ?? '', /may still be sent/)
    assert.match(refusals[1]?.message ?? '', /was not accepted/)
  })
  const next = intakeRow()
  await acceptor.accept(next, { mayBuffer: true, timeoutMs: 10_000 })
  await moveAll()
  assert.deepEqual(await Promise.all([left, kept, next].map(({ id }) => statusOf(database, id))), [
    ['accepted'],
    [],
    ['accepted'],
  ])
})

test('more mail than may be held is refused at once, and room is made by what ends', async () => {
  const { acceptor } = intake.openDesk()
  const patient = { mayBuffer: true, timeoutMs: 60_000 }
  const large = (chars: number) => intakeRow({ message: orderMail({ html: 'x'.repeat(chars) }) })
  const first = await whileLocked(database, 'mail.intake', async () => {
    const held = acceptor.accept(large(30_000_000), patient)
    const error = await refusalOf(acceptor.accept(large(40_000_000), patient))
    assert.deepEqual([error.status, error.retryAfterS], [503, 2])
    return { held }
  })
  await first.held
  await acceptor.accept(large(1_000_000), patient)
  await moveAll()
})

test('a look sends the bodies of keyed rows in bounded statements', async () => {
  const { db, statements } = watched(intake.db)
  const { acceptor } = intake.openDesk({ db })
  const html = 'x'.repeat(5_000_000)
  const accepted = Array.from({ length: 5 }, (_, n) =>
    acceptor.accept(intakeRow({ idempotencyKey: `large ${n}`, message: orderMail({ html }) }), {
      mayBuffer: true,
      timeoutMs: 60_000,
    }),
  )
  while (!(await settledWithin(Promise.all(accepted), IMPATIENT_MS))) await intake.move()
  assert.ok(Math.max(...statements) < 17_000_000, `statements of ${statements.join(', ')} characters`)
})

/** Large mail takes several batches. */
async function moveAll(): Promise<void> {
  while ((await database.query('select from mail.intake limit 1')).length > 0) await intake.move()
}

async function acceptAndMoveElsewhere(row: ReturnType<typeof intakeRow>) {
  const { acceptor, woken } = intake.openDesk()
  const accepted = acceptor.accept(row, { mayBuffer: true, timeoutMs: 10_000 })
  await Promise.all([accepted.catch(() => undefined), untilAppended(woken).then(() => intake.move())])
  return accepted
}

async function untilAppended(woken: readonly string[]): Promise<void> {
  await eventually('the row was appended', async () => woken.includes('doors'))
}

async function refusalOf(accepted: Promise<unknown>): Promise<ApiError> {
  const error = await accepted.then(
    () => assert.fail('it was accepted'),
    (reason: unknown) => reason,
  )
  assert.ok(error instanceof ApiError, String(error))
  return error
}

async function settledWithin(promise: Promise<unknown>, ms: number): Promise<boolean> {
  const timeout = new Promise<false>((resolve) => setTimeout(() => resolve(false), ms))
  return Promise.race([promise.then(() => true as const), timeout])
}

/** The same database, noting the size of the parameters of each append. */
function watched(db: Database): { db: Database; statements: number[] } {
  const statements: number[] = []
  const watching = db.withPlugin({
    transformQuery: ({ node }: { node: RootOperationNode }) => {
      if (node.kind === 'RawNode') {
        statements.push(JSON.stringify(node.parameters).length)
      }
      return node
    },
    transformResult: async ({ result }: { result: QueryResult<UnknownRow> }) => result,
  })
  return { db: watching, statements }
}
