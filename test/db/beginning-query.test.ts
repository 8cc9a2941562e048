import assert from 'node:assert/strict'
import { test } from 'node:test'
import { sql } from 'kysely'
import { BeginningQuery } from '../../src/db/beginning-query.ts'
import { inTransaction } from '../../src/db/transaction.ts'
import { createTestDatabase } from '../support/database.ts'
import { openTestPool } from '../support/feedback.ts'

const insert = (n: number) => sql<{ n: number }>`/* intake.test */
  insert into public.seen (n) values (${n}) returning n`
const insertCold = (n: number) => sql<{ n: number }>`insert into public.seen (n) values (${n}) returning n`

async function createSeen(t: Parameters<typeof createTestDatabase>[0]) {
  const database = await createTestDatabase(t)
  await database.query('create table public.seen (n integer check (n < 100))')
  // One connection, so that whatever one transaction leaves behind the next one meets.
  const db = openTestPool(database, 1)
  const seen = async () =>
    (await database.query<{ n: number }>('select n from public.seen order by n')).map(({ n }) => n)
  return { database, db, seen }
}

for (const [kind, statement] of [
  ['prepared', insert],
  ['other', insertCold],
] as const) {
  test(`the first statement of a transaction is part of it, a ${kind} one`, async (t) => {
    const { db, seen } = await createSeen(t)
    // The first is parsed, the second is known to the server.
    for (const n of [1, 2]) {
      const undone = inTransaction(db, async (trx) => {
        const { rows } = await statement(n).execute(trx)
        assert.deepEqual(rows, [{ n }])
        assert.deepEqual((await statement(n + 10).execute(trx)).rows, [{ n: n + 10 }])
        throw new Error('taken back')
      })
      await assert.rejects(undone, { message: 'taken back' })
      assert.deepEqual(await seen(), [])
    }
    await inTransaction(db, (trx) => statement(3).execute(trx))
    assert.deepEqual(await seen(), [3])
  })
}

test('after a first statement that failed, by its text or by its values, the connection is as before', async (t) => {
  const { database, db, seen } = await createSeen(t)
  await assert.rejects(
    inTransaction(db, (trx) => insert(100).execute(trx)),
    { code: '23514' },
  )
  const early = sql`/* intake.test_late */ insert into public.late (n) values (${1})`
  await assert.rejects(
    inTransaction(db, (trx) => early.execute(trx)),
    { code: '42P01' },
  )
  await database.query('create table public.late (n integer)')
  await inTransaction(db, (trx) => early.execute(trx))
  await inTransaction(db, (trx) => insert(4).execute(trx))
  assert.deepEqual(await database.query('select n from public.late'), [{ n: 1 }])
  assert.deepEqual(await seen(), [4])
})

test('a transaction without a statement is none', async (t) => {
  const { db, seen } = await createSeen(t)
  assert.equal(await inTransaction(db, async () => 'done'), 'done')
  await assert.rejects(
    inTransaction(db, async () => {
      throw new Error('taken back')
    }),
    { message: 'taken back' },
  )
  // Outside of any transaction again.
  await insert(5).execute(db)
  assert.deepEqual(await seen(), [5])
})

test('nothing ends what the server skips between `begin` and the statement', () => {
  const sent: string[] = []
  const wire = {
    stream: {},
    parsedStatements: {} as Record<string, string>,
    submittedNamedStatements: {} as Record<string, string>,
    parse: ({ name = '', text }: { name?: string; text: string }) => sent.push(`parse ${name}: ${text}`),
    bind: ({ statement = '' }: { statement?: string }) => sent.push(`bind ${statement}`),
    describe: () => sent.push('describe'),
    execute: () => sent.push('execute'),
    sync: () => sent.push('sync'),
  }
  const statement = { name: 'one', text: 'select $1', values: [1] }
  const submit = () => {
    const query = new BeginningQuery(statement, () => undefined)
    query.submit(wire as never)
    return sent.splice(0)
  }
  const begin = ['parse : begin', 'bind ', 'execute']
  const rest = ['bind one', 'describe', 'execute', 'sync']
  assert.deepEqual(submit(), ['parse one: select $1', ...begin, ...rest])
  assert.deepEqual(submit(), [...begin, ...rest])
})
