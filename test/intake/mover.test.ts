import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { before, describe, test } from 'node:test'
import { appendToIntake, takeBatch } from '../../src/intake/queries.ts'
import { WHOLE_LOOK } from '../../src/queue/queue-front.ts'
import { jobPriority } from '../../src/queue/queues.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { orderMail } from '../support/service.ts'
import { intakeRow, openIntake } from './intake-stage.ts'

let database: TestDatabase
let intake: Awaited<ReturnType<typeof openIntake>>

before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  intake = await openIntake(database)
})

type Door = 'intake' | 'outbox'

async function insert(door: Door, message: string, columns: Record<string, unknown> = {}): Promise<string> {
  const names = ['message', ...Object.keys(columns)]
  const places = names.map((_, index) => `$${index + 1}`)
  const [row] = await database.query<{ id: string }>(
    `insert into mail.${door} (${names.join(', ')}) values (${places.join(', ')}) returning id`,
    [message, ...Object.values(columns)],
  )
  assert.ok(row)
  return row.id
}

async function fateOf(id: string) {
  const [row] = await database.query<{
    status: string
    code: string | null
    reason: string | null
    dead_letters: number
    given: string
  }>(
    `select m.status, d.code, d.reason, c.message::text as given,
       (select count(*)::integer from mail.dead_letter where message_id = m.id) as dead_letters
     from mail.message m
     join mail.message_content c on c.id = m.id
     left join mail.dead_letter d on d.message_id = m.id
     where m.id = $1`,
    [id],
  )
  return row
}

async function isWaiting(): Promise<boolean> {
  const rows = await database.query(
    'select from (select 1 from mail.intake union all select 1 from mail.outbox) waiting',
  )
  return rows.length > 0
}

const MAIL = JSON.stringify(orderMail())

/** What SQL can insert and the mover has to refuse: the JSON, the code and what the reason says. */
const REFUSED: readonly (readonly [name: string, message: string, reason: RegExp])[] = [
  ['a null', 'null', /`message`.*null/],
  ['a number', '7', /`message`.*a number/],
  ['a string', '"mail"', /`message`.*a string/],
  ['a list', `[${MAIL}]`, /`message`.*a list/],
  ['an empty object', '{}', /Missing `to`/],
  ['a NUL escape', MAIL.replace('Your order', 'Your\\u0000order'), /`subject`.*NUL/],
  ['a lone surrogate escape', MAIL.replace('Thank you.', '\\ud800'), /`html`.*surrogate/],
  ['a NUL in the name of a field', `{"a\\u0000b":1,${MAIL.slice(1)}`, /there is no such field/],
  ['a wrong type', JSON.stringify(orderMail({ to: { email: 'ann@example.net' } })), /`to`.*an object/],
  ['nesting without end', `{"deep":${'['.repeat(2_000)}${']'.repeat(2_000)},${MAIL.slice(1)}`, /`deep`/],
  [
    'deep template data',
    JSON.stringify({
      from: 'a@example.com',
      to: 'b@example.com',
      template: { id: 't', variables: { a: nested(30) } },
    }),
    /`template\.variables.*nested more than 20/,
  ],
  [
    'an infinite number',
    '{"from":"a@example.com","to":"b@example.com","template":{"id":"t","variables":{"n":1e999}}}',
    /`template\.variables\.n`.*finite/,
  ],
  [
    '51 recipients',
    JSON.stringify(orderMail({ to: Array.from({ length: 51 }, (_, n) => `n${n}@example.com`) })),
    /`to`.*51.*at most 50/,
  ],
  [
    'an unknown stream in the message',
    JSON.stringify(orderMail({ stream: 'nowhere' })),
    /no stream `nowhere`; the streams are/,
  ],
]

function nested(levels: number): unknown {
  return levels === 0 ? 'deep' : [nested(levels - 1)]
}

describe('a row that cannot be understood', () => {
  for (const door of ['intake', 'outbox'] as const) {
    test(`from ${door} becomes one dead letter with the reason, and its neighbours go on`, async () => {
      const cases: { name: string; id: string; message: string; reason: RegExp; neighbour: string }[] = []
      for (const [name, message, reason] of REFUSED) {
        const id = await insert(door, message)
        cases.push({ name, id, message, reason, neighbour: await insert(door, MAIL) })
      }
      await intake.move()
      for (const { name, id, message, reason, neighbour } of cases) {
        const fate = await fateOf(id)
        assert.deepEqual([fate?.status, fate?.dead_letters], ['dead', 1], name)
        assert.match(fate?.reason ?? '', reason, name)
        assert.equal(fate?.given, message, name)
        assert.equal((await fateOf(neighbour))?.status, 'accepted', `the neighbour of ${name}`)
      }
      assert.equal(await isWaiting(), false)
    })
  }

  test('in its columns names the stream that is unknown', async () => {
    const id = await insert('outbox', MAIL, { stream: 'nowhere' })
    await intake.move()
    const fate = await fateOf(id)
    assert.deepEqual([fate?.status, fate?.code], ['dead', 'unknown_stream'])
    assert.match(fate?.reason ?? '', /no stream `nowhere`/)
  })

  test('leaves its key unused', async () => {
    const bad = await insert('outbox', '{}', { idempotency_key: 'repaired' })
    await intake.move()
    const good = await insert('outbox', MAIL, { idempotency_key: 'repaired' })
    await intake.move()
    assert.deepEqual([(await fateOf(bad))?.status, (await fateOf(good))?.status], ['dead', 'accepted'])
  })

  test('is found where a person looks', async () => {
    const id = await insert('intake', 'false', { source: 'a report' })
    await intake.move()
    const rows = await database.query('select stage, source, code from mail.dlq where message_id = $1', [id])
    assert.deepEqual(rows, [{ stage: 'intake', source: 'a report', code: 'invalid_message' }])
    const [why] = await database.query<{ why: string }>('select mail.why($1)', [id])
    assert.match(why?.why ?? '', /^Dead since .*failed in intake with invalid_message: Invalid `message`/)
  })
})

describe('a key', () => {
  test('used with JSON that only the mover can read stops nothing and counts as the same when repeated', async () => {
    const readable = [
      // The first of two members is not looked at by us, and refused by jsonb.
      `{"subject":"\\u0000",${MAIL.slice(1)}`,
      `{"from":"a@example.com","to":"b@example.com","template":{"id":"t","variables":{"n":0.${'0'.repeat(20_000)}1}}}`,
    ]
    for (const [index, message] of readable.entries()) {
      const key = { idempotency_key: `unusual ${index}` }
      const first = await insert('outbox', message, key)
      const repeat = await insert('outbox', message, key)
      const neighbour = await insert('outbox', MAIL)
      const outcomes = await intake.move()
      assert.deepEqual(outcomes.get(first), { kind: 'stored' })
      assert.deepEqual(outcomes.get(repeat), { kind: 'replayed', firstId: first })
      assert.equal((await fateOf(neighbour))?.status, 'accepted')
    }
  })

  test('means the first row of those that come with it in one batch', async () => {
    const key = { idempotency_key: 'one batch' }
    const first = await insert('outbox', MAIL, key)
    const spaced = JSON.stringify(orderMail(), null, 2)
    const repeat = await insert('outbox', spaced, key)
    const other = await insert('outbox', JSON.stringify(orderMail({ subject: 'Other' })), key)
    await intake.move()
    assert.equal((await fateOf(first))?.status, 'accepted')
    assert.equal(await fateOf(repeat), undefined)
    const fate = await fateOf(other)
    assert.deepEqual([fate?.status, fate?.code], ['dead', 'idempotency_conflict'])
    assert.match(fate?.reason ?? '', new RegExp(`another message \\(${first}\\)`))
    const events = await database.query('select type from mail.event where message_id = $1 order by id', [
      first,
    ])
    assert.deepEqual(events, [{ type: 'accepted' }, { type: 'replayed' }])
  })

  test('can be used again, for another message, when it has expired', async () => {
    const key = { idempotency_key: 'old' }
    await insert('outbox', MAIL, key)
    await intake.move()
    await database.query(
      "update mail.idempotency set expires_at = now() - interval '1 second' where key = 'old'",
    )
    const again = await insert('outbox', JSON.stringify(orderMail({ subject: 'A year later' })), key)
    await intake.move()
    assert.equal((await fateOf(again))?.status, 'accepted')
    const [known] = await database.query<{ message_ids: string[]; is_kept: boolean }>(
      "select message_ids, expires_at > now() + interval '23 hours' as is_kept from mail.idempotency where key = 'old'",
    )
    assert.deepEqual(known, { message_ids: [again], is_kept: true })
  })

  test('used by two movers at the same moment gives one message', async () => {
    const rows = Array.from({ length: 40 }, () => intakeRow({ idempotencyKey: 'two movers' }))
    await appendToIntake(intake.db, rows, intake.process)
    const outcomes = await Promise.all([intake.move(), intake.move(), intake.move()])
    const kinds = outcomes.flatMap((each) => [...each.values()]).map(({ kind }) => kind)
    assert.deepEqual([kinds.filter((kind) => kind === 'stored').length, kinds.length], [1, 40])
    const [count] = await database.query<{ count: number }>(
      'select count(*)::integer from mail.message where id = any ($1)',
      [rows.map(({ id }) => id)],
    )
    assert.equal(count?.count, 1)
  })
})

describe('order and size', () => {
  test('urgent rows of both doors are taken first, and their jobs are fetched first', async () => {
    await appendToIntake(
      intake.db,
      Array.from({ length: 600 }, () => intakeRow({ priority: 9, stream: 'alerts' })),
      intake.process,
    )
    const urgent = new Set<string>()
    for (const door of ['intake', 'outbox'] as const) {
      urgent.add(await insert(door, MAIL, { priority: 0, stream: 'alerts' }))
    }
    const outcomes = await intake.move()
    assert.ok([...urgent].every((id) => outcomes.has(id)))
    assert.equal(await isWaiting(), true)
    const [job] = await intake.boss.fetch<{ ids: string[] }>('process.alerts', { includeMetadata: true })
    assert.deepEqual([job?.priority, new Set(job?.data.ids)], [jobPriority(0), urgent])
    while (await isWaiting()) await intake.move()
  })

  test('a row without a priority has the one of its message, or else its stream’s', async () => {
    const own = await insert('intake', JSON.stringify(orderMail({ priority: 8 })))
    const streams = await insert('intake', MAIL, { stream: 'marketing' })
    const column = await insert('intake', JSON.stringify(orderMail({ priority: 8 })), { priority: 1 })
    await intake.move()
    const rows = await database.query<{ id: string; priority: number; stream: string }>(
      'select id, priority, stream from mail.message where id = any ($1)',
      [[own, streams, column]],
    )
    assert.deepEqual(Object.fromEntries(rows.map(({ id, priority, stream }) => [id, [priority, stream]])), {
      [own]: [8, 'transactional'],
      [streams]: [7, 'marketing'],
      [column]: [1, 'transactional'],
    })
  })

  test('a batch is bounded by the size of its mail, however well that compresses', async () => {
    const html = 'sale '.repeat(200_000)
    for (let n = 0; n < 4; n += 1) await insert('outbox', JSON.stringify(orderMail({ html })))
    const sizes: number[] = []
    await intake.db.transaction().execute(async (trx) => {
      for (const maxBytes of [1, 2_500_000, 2_500_000]) {
        sizes.push((await takeBatch(trx, takingOf(maxBytes))).length)
      }
    })
    assert.deepEqual(sizes, [1, 2, 1])
  })

  test('a row that callers in another process wait for is left to that process while it is fresh', async () => {
    const row = intakeRow()
    await appendToIntake(intake.db, [row], randomUUID())
    assert.equal((await intake.move()).has(row.id), false)
    await database.query("update mail.intake set received_at = now() - interval '1 second' where id = $1", [
      row.id,
    ])
    assert.equal((await intake.move()).has(row.id), true)
  })

  test('rows held by another mover are passed over', async () => {
    const held = await insert('outbox', MAIL)
    await intake.db
      .transaction()
      .execute(async (trx) => {
        assert.deepEqual(
          (await takeBatch(trx, takingOf(1_000_000))).map(({ id }) => id),
          [held],
        )
        const free = await insert('outbox', MAIL)
        assert.deepEqual([...(await intake.move()).keys()], [free])
        throw new Error('died before its commit')
      })
      .catch((error: Error) => assert.equal(error.message, 'died before its commit'))
    assert.deepEqual([...(await intake.move()).keys()], [held])
  })
})

function takingOf(bytes: number) {
  return { rows: 500, bytes, mover: intake.process, look: WHOLE_LOOK }
}
