import assert from 'node:assert/strict'
import { test } from 'node:test'
import { DatabaseClock } from '../src/database-clock.ts'
import { uuid7 } from '../src/uuid7.ts'
import { createTestDatabase } from './support/database.ts'
import { openTestPool } from './support/feedback.ts'

test('the clock goes by the database, whatever this machine counts from, and is not moved by slow answers', async (t) => {
  const database = await createTestDatabase(t)
  const db = openTestPool(database)
  let elapsed = 5_000_000
  const clock = await DatabaseClock.open(db, () => elapsed)
  const there = async () => {
    const [row] = await database.query<{ ms: number }>(
      'select extract(epoch from clock_timestamp())::double precision * 1000 as ms',
    )
    return row?.ms ?? 0
  }
  assert.ok(Math.abs(clock.now() - (await there())) < 5_000)
  const before = clock.now()
  elapsed += 250
  assert.equal(clock.now(), before + 250)
  // Far from anything an answer's delay can explain: the machine was suspended, or the database's clock was set.
  elapsed += 3_600_000
  await clock.look()
  assert.ok(Math.abs(clock.now() - (await there())) < 5_000)

  const steady = clock.now()
  const slowly = clock.look()
  elapsed += 40_000
  await slowly
  assert.equal(
    clock.now(),
    steady + 40_000,
    'an answer that took 40 s says nothing against what was believed',
  )
})

test('an id has the time it is given and is a UUID of version 7', () => {
  const at = Date.UTC(2031, 0, 2, 3, 4, 5, 678)
  const ids = new Set(Array.from({ length: 100 }, () => uuid7(at)))
  assert.equal(ids.size, 100)
  for (const id of ids) {
    assert.match(id, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
    assert.equal(Number.parseInt(id.replaceAll('-', '').slice(0, 12), 16), at)
  }
})
