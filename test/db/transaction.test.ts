import assert from 'node:assert/strict'
import { test } from 'node:test'
import { sql } from 'kysely'
import { BeginningQuery } from '../../src/db/beginning-query.ts'
import { EndingQuery } from '../../src/db/ending-query.ts'
import { inTransaction, lastly } from '../../src/db/transaction.ts'
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

/** The last statement of its transaction, of a text of its own for each `name`. */
const insertLast = (n: number, name = 'last') =>
  sql<{
    n: number
  }>`/* intake.test_${sql.raw(name)} */ ${lastly} insert into public.seen (n) values (${n}) returning n`

test('the last statement commits its transaction, whether it is the first as well or not', async (t) => {
  const { database, db, seen } = await createSeen(t)
  // The first is parsed, the second is known to the server.
  for (const n of [1, 2]) {
    await inTransaction(db, async (trx) => {
      assert.deepEqual((await insertLast(n).execute(trx)).rows, [{ n }])
      assert.ok((await seen()).includes(n), 'before anybody asked for the commit')
    })
    await inTransaction(db, async (trx) => {
      await insert(n + 10).execute(trx)
      assert.ok(!(await seen()).includes(n + 10))
      assert.deepEqual((await insertLast(n + 20).execute(trx)).rows, [{ n: n + 20 }])
      assert.ok((await seen()).includes(n + 10) && (await seen()).includes(n + 20))
    })
  }
  assert.deepEqual(await seen(), [1, 2, 11, 12, 21, 22])
  // Outside of any transaction it is a statement like others.
  await insertLast(3).execute(db)
  await assert.rejects(
    inTransaction(db, async (trx) => {
      await insert(4).execute(trx)
      throw new Error('taken back')
    }),
    { message: 'taken back' },
  )
  assert.deepEqual(await seen(), [1, 2, 3, 11, 12, 21, 22])
  assert.deepEqual(
    await database.query(
      "select from pg_stat_activity where datname = current_database() and state like 'idle in transaction%'",
    ),
    [],
  )
})

test('a last statement that fails, in its text, its values or its commit, leaves nothing of its transaction', async (t) => {
  const { database, db, seen } = await createSeen(t)
  await database.query(
    'create table public.later (n integer unique deferrable initially deferred); insert into public.later values (1)',
  )
  const later = sql`/* intake.test_later */ ${lastly} insert into public.later (n) values (${1})`
  const absent = sql`/* intake.test_absent */ ${lastly} insert into public.absent (n) values (${1})`
  const circular: unknown[] = []
  circular.push({ circular })
  const unsendable = sql`/* intake.test_unsendable */ ${lastly} insert into public.seen (n) values (${circular[0]})`
  const failures = [
    [insertLast(100), { code: '23514' }],
    [later, { code: '23505' }],
    [absent, { code: '42P01' }],
    [unsendable, TypeError],
  ] as const
  for (const [statement, error] of failures) {
    await assert.rejects(
      inTransaction(db, (trx) => statement.execute(trx)),
      error,
    )
    const withOthers = inTransaction(db, async (trx) => {
      await insert(1).execute(trx)
      await statement.execute(trx)
    })
    await assert.rejects(withOthers, error)
    assert.deepEqual(await seen(), [])
  }
  assert.deepEqual(await database.query('select n from public.later'), [{ n: 1 }])
  await inTransaction(db, (trx) => insert(5).execute(trx))
  assert.deepEqual(await seen(), [5])
})

test('behind the last statement nothing follows, and nothing is undone', async (t) => {
  const { db, seen } = await createSeen(t)
  const another = inTransaction(db, async (trx) => {
    await insertLast(1).execute(trx)
    await insert(2).execute(trx)
  })
  await assert.rejects(another, /too late to roll back/)
  const regret = inTransaction(db, async (trx) => {
    await insertLast(3).execute(trx)
    throw new Error('taken back')
  })
  await assert.rejects(regret, /too late to roll back/)
  await inTransaction(db, (trx) => insert(4).execute(trx))
  assert.deepEqual(await seen(), [1, 3, 4])
})

const STATEMENT = { name: 'one', text: 'select $1', values: [1] }

/** What goes over the wire the first time, and the second. */
function sentBy(kind: typeof BeginningQuery | typeof EndingQuery): readonly string[][] {
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
  return [1, 2].map(() => {
    new kind(STATEMENT, () => undefined).submit(wire as never)
    return sent.splice(0)
  })
}

test('nothing ends what the server skips between `begin` and the first statement, or the last and `commit`', () => {
  const statement = ['bind one', 'describe', 'execute']
  const begin = ['parse : begin', 'bind ', 'execute']
  assert.deepEqual(sentBy(BeginningQuery), [
    ['parse one: select $1', ...begin, ...statement, 'sync'],
    [...begin, ...statement, 'sync'],
  ])
  const commit = ['parse : commit', 'bind ', 'execute']
  assert.deepEqual(sentBy(EndingQuery), [
    ['parse one: select $1', ...statement, ...commit, 'sync'],
    [...statement, ...commit, 'sync'],
  ])
})
