import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import { Client } from 'pg'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'

let database: TestDatabase

before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
})

async function makePartitions(daysAhead: number): Promise<number | undefined> {
  const [row] = await database.query<{ made: number }>('select mail.ensure_partitions($1) as made', [
    daysAhead,
  ])
  return row?.made
}

test('a reader of a default partition costs its table the new partitions until the next call, and no error', async () => {
  const reader = new Client({ connectionString: database.url })
  await reader.connect()
  try {
    await reader.query('begin; select from mail.message_default')
    assert.equal(await makePartitions(9), 12)
    await reader.query('commit')
    assert.equal(await makePartitions(9), 2)
  } finally {
    await reader.end()
  }
})

test('partitions that another session is making are left to it', async () => {
  const maker = new Client({ connectionString: database.url })
  await maker.connect()
  try {
    await maker.query('begin; select mail.ensure_partitions()')
    assert.equal(await makePartitions(10), 0)
  } finally {
    await maker.end()
  }
})

for (const table of ['intake', 'outbox']) {
  test(`mail.${table} takes a message by the size of its text, however well it compresses`, async () => {
    const insert = (chars: number) =>
      database.query(
        `insert into mail.${table} (message) select json_build_object('html', repeat('x', $1::integer))`,
        [chars],
      )
    await assert.rejects(insert(33_554_432), { code: '23514', constraint: 'message_is_at_most_32_mb' })
  })
}

test('an address goes on the suppression list as messages hold it', async () => {
  await database.query("select mail.suppress(E'  Ann@Example.NET\\n')")
  await database.query("select mail.suppress('ann@xn--bcher-kva.example')")
  const rows = await database.query('select address from mail.suppression order by address')
  assert.deepEqual(rows, [{ address: 'ann@example.net' }, { address: 'ann@xn--bcher-kva.example' }])
})

for (const address of [
  'ann@bücher.example',
  'Ann <ann@example.net>',
  'ann',
  'a@b@example.net',
  'ann @example.net',
  '',
]) {
  test(`the suppression list refuses "${address}", which would never match`, async () => {
    await assert.rejects(database.query('select mail.suppress($1)', [address]), {
      code: '22023',
      message: /is not a plain address/,
      hint: /xn--/,
    })
    await assert.rejects(
      database.query("insert into mail.suppression (address, reason) values (lower($1), 'x')", [address]),
      { code: '23514', constraint: 'address_is_plain_ascii' },
    )
  })
}
