import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Client } from 'pg'
import { createTestDatabase, type TestDatabase } from './support/database.ts'
import { eventually } from './support/eventually.ts'

type Row = { readonly cursor: string; readonly type: string }

async function connect(database: TestDatabase): Promise<Client> {
  const client = new Client({ connectionString: database.url })
  await client.connect()
  database.beforeDrop(() => client.end())
  return client
}

async function readOn(database: TestDatabase, after: string | null, max = 1_000): Promise<Row[]> {
  return database.query<Row>('select cursor, type from mail.read_events($1, $2)', [after, max])
}

/** What is read once the transactions that were open, of other tests on the server too, have ended. */
async function readTypes(database: TestDatabase, after: string | null, count: number): Promise<string[]> {
  const rows = await eventually(`${count} events`, async () => {
    const read = await readOn(database, after)
    return read.length >= count ? read : undefined
  })
  return rows.map(({ type }) => type)
}

async function addEvent(client: Client, type: string): Promise<void> {
  await client.query('insert into mail.event (message_id, type) values (mail.uuid7(), $1)', [type])
}

test('an event that commits late comes after those that were read before it', async (t) => {
  const database = await createTestDatabase(t)
  const [early, late] = [await connect(database), await connect(database)]
  await late.query('begin')
  await addEvent(late, 'late')
  await addEvent(early, 'early')
  // The late one may still commit with a smaller number than the early one: neither is shown yet.
  assert.deepEqual(await readOn(database, null), [])
  await late.query('commit')
  assert.deepEqual(await readTypes(database, null, 2), ['late', 'early'])
})

test('a reader that goes on from its cursor meets every event exactly once, whatever commits when', async (t) => {
  const database = await createTestDatabase(t)
  const writers = await Promise.all(Array.from({ length: 6 }, () => connect(database)))
  const reader = await connect(database)
  let written = Number.POSITIVE_INFINITY
  const seen: string[] = []
  const reading = (async () => {
    let cursor: string | null = null
    while (seen.length < written) {
      const { rows }: { rows: Row[] } = await reader.query(
        'select cursor, type from mail.read_events($1, 7)',
        [cursor],
      )
      seen.push(...rows.map(({ type }) => type))
      cursor = rows.at(-1)?.cursor ?? cursor
    }
  })()
  await Promise.all(
    writers.map(async (client, writer) => {
      for (let round = 0; round < 40; round++) {
        await client.query('begin')
        for (let part = 0; part <= (writer * 7 + round) % 4; part++) {
          await addEvent(client, `${writer}.${round}.${part}`)
        }
        // Rolled back now and then: numbers are used up, nothing is shown.
        await client.query(round % 5 === writer % 5 ? 'rollback' : 'commit')
      }
    }),
  )
  const all = await database.query<{ type: string }>('select type from mail.event')
  written = all.length
  await reading
  assert.equal(new Set(seen).size, seen.length, 'none twice')
  assert.deepEqual(seen.toSorted(), all.map(({ type }) => type).toSorted())
})

test('a limit cuts within a transaction and the next read goes on there', async (t) => {
  const database = await createTestDatabase(t)
  await database.query(
    `insert into mail.event (message_id, type) select mail.uuid7(), 'n' || n from generate_series(1, 5) n`,
  )
  await readTypes(database, null, 5)
  const first = await readOn(database, null, 2)
  const second = await readOn(database, first.at(-1)?.cursor ?? null, 10)
  assert.deepEqual(
    [...first, ...second].map(({ type }) => type),
    ['n1', 'n2', 'n3', 'n4', 'n5'],
  )
  assert.deepEqual(await readOn(database, second.at(-1)?.cursor ?? null), [])
})

test('the latest cursor leaves out all that has happened', async (t) => {
  const database = await createTestDatabase(t)
  const client = await connect(database)
  await addEvent(client, 'before')
  await readTypes(database, null, 1)
  const [row] = await database.query<{ latest: string }>('select mail.latest_event() as latest')
  await addEvent(client, 'after')
  assert.deepEqual(await readTypes(database, row?.latest ?? null, 1), ['after'])
})

test('a cursor from another server is refused until the events are adopted', async (t) => {
  const database = await createTestDatabase(t)
  await database.query(
    `insert into mail.event (message_id, type, xid) values (mail.uuid7(), 'restored', '999999999999')`,
  )
  await database.query(`insert into mail.consumer (name, cursor) values ('app', '999999999999:1')`)
  await assert.rejects(readOn(database, '999999999999:1'), { code: '55000' })
  await database.query('select mail.adopt_events()')
  const [consumer] = await database.query<{ cursor: string }>(
    `select cursor from mail.consumer where name = 'app'`,
  )
  await database.query(`insert into mail.event (message_id, type) values (mail.uuid7(), 'new')`)
  assert.deepEqual(await readTypes(database, consumer?.cursor ?? null, 1), ['new'])
})

test('reading goes by the index of each partition', async (t) => {
  const database = await createTestDatabase(t)
  await database.query(
    `insert into mail.event (message_id, type) select mail.uuid7(), 'e' from generate_series(1, 20000)`,
  )
  const client = await connect(database)
  for (let n = 0; n < 50; n++) await addEvent(client, 'later')
  await database.query('analyze mail.event')
  const [row] = await database.query<{ cursor: string }>(
    `select xid::text || ':' || id as cursor from mail.event where type = 'e' order by id desc limit 1`,
  )
  // Whether it pays is the planner's to say; that it can is ours.
  await client.query('set enable_seqscan = off')
  const plan = await client.query(
    `explain select e.xid, e.id from mail.event e
     where e.xid >= '${row?.cursor.split(':')[0]}'::xid8 and e.xid < pg_snapshot_xmin(pg_current_snapshot())
     order by e.xid, e.id limit 100`,
  )
  const text = plan.rows.map((line) => Object.values(line)[0]).join('\n')
  assert.doesNotMatch(text, /Seq Scan on event_2/)
})
