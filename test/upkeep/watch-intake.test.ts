import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'

type Loss = { readonly at_least: number; readonly at_most: number }

async function look({ query }: TestDatabase): Promise<Loss[]> {
  return query<Loss>('select at_least::integer, at_most::integer from mail.watch_intake()')
}

async function append({ query }: TestDatabase, count: number, key: string | null = null): Promise<void> {
  await query(
    `insert into mail.intake (message, idempotency_key)
     select '{}', $2::text || n from generate_series(1, $1::integer) n`,
    [count, key],
  )
}

/** What a crash of Postgres does to unlogged tables. */
async function crash({ query }: TestDatabase): Promise<void> {
  await query('truncate mail.intake, mail.intake_canary')
}

/** What the mover does, as far as the watch can see. */
async function move({ query }: TestDatabase, count: number): Promise<void> {
  await query(
    `with taken as (
       delete from mail.intake where seq in (select seq from mail.intake order by seq limit $1) returning id, seq, received_at
     )
     insert into mail.message (id, seq, accepted_at, priority, status, stream, source)
     select id, seq, received_at, 5, 'accepted', 'transactional', 'test' from taken`,
    [count],
  )
}

test('an intake that is intact is never reported, empty or not', async (t) => {
  const database = await createTestDatabase(t)
  assert.deepEqual(await look(database), [])
  await append(database, 10)
  assert.deepEqual(await look(database), [])
  await move(database, 10)
  assert.deepEqual(await look(database), [])
  assert.deepEqual(await database.query('select from mail.intake_loss'), [])
})

test('an intake emptied by a crash is reported once, with a range that holds what was lost', async (t) => {
  const database = await createTestDatabase(t)
  await look(database)
  await append(database, 10)
  await look(database)
  await append(database, 5)
  await crash(database)
  const losses = await look(database)
  assert.equal(losses.length, 1)
  // Ten were seen waiting; five came after the last look, and only their numbers tell.
  assert.deepEqual(losses[0], { at_least: 10, at_most: 15 })
  assert.deepEqual(await look(database), [])
  assert.equal((await database.query('select from mail.intake_loss')).length, 1)
})

test('what was moved before the crash does not count as lost', async (t) => {
  const database = await createTestDatabase(t)
  await look(database)
  await append(database, 10)
  await look(database)
  await move(database, 7)
  await append(database, 2)
  await database.query("insert into mail.outbox (message) values ('{}'), ('{}')")
  await crash(database)
  assert.deepEqual(await look(database), [{ at_least: 3, at_most: 5 }])
})

test('a crash that took nothing is reported as at least none, and a second crash is counted on its own', async (t) => {
  const database = await createTestDatabase(t)
  await look(database)
  await append(database, 3)
  await look(database)
  await move(database, 3)
  await look(database)
  await look(database)
  await crash(database)
  assert.deepEqual(await look(database), [{ at_least: 0, at_most: 0 }])
  await append(database, 4)
  await look(database)
  await crash(database)
  assert.deepEqual(await look(database), [{ at_least: 4, at_most: 4 }])
})

test('rows with an idempotency key are no certain loss: a repeat of theirs may have been dropped', async (t) => {
  const database = await createTestDatabase(t)
  await look(database)
  await append(database, 6, 'key')
  await look(database)
  await crash(database)
  assert.deepEqual(await look(database), [{ at_least: 0, at_most: 6 }])
})
