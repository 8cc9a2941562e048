import assert from 'node:assert/strict'
import { before, describe, test } from 'node:test'
import fc from 'fast-check'
import type { Database } from '../../src/db/pool.ts'
import { FEEDBACK_TYPES, type FeedbackEvent } from '../../src/feedback/event.ts'
import { retryUnmatched } from '../../src/feedback/unmatched.ts'
import { createLog } from '../../src/log.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import {
  apply,
  eventOf,
  insertMessages,
  openTestPool,
  type StoredMessage,
  statusOf,
  suppressions,
} from '../support/feedback.ts'
import { eventTypesOf } from '../support/messages.ts'

let database: TestDatabase
let db: Database

before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  db = openTestPool(database)
})

async function insertOne(message: StoredMessage = {}): Promise<string> {
  const [id = ''] = await insertMessages(database, [message])
  return id
}

function shuffled<T>(items: readonly T[]): T[] {
  const copy = [...items]
  for (let last = copy.length - 1; last > 0; last -= 1) {
    const other = Math.floor(Math.random() * (last + 1))
    const taken = copy[last] as T
    copy[last] = copy[other] as T
    copy[other] = taken
  }
  return copy
}

describe('the status of a message', () => {
  const PROGRESS = [
    [['delivered'], 'delivered'],
    [['deferred'], 'sent'],
    [['opened'], 'delivered'],
    [['deferred', 'delivered', 'clicked'], 'delivered'],
    [['delivered', 'bounced'], 'bounced'],
    [['bounced', 'delivered'], 'bounced'],
    [['rejected'], 'bounced'],
    [['complained', 'delivered', 'bounced'], 'complained'],
  ] as const
  for (const [types, status] of PROGRESS) {
    test(`after ${types.join(', ')} is ${status}`, async () => {
      const id = await insertOne()
      for (const type of types) await apply(db, [eventOf(id, type)])
      assert.equal(await statusOf(database, id), status)
      assert.deepEqual((await eventTypesOf(database, id)).toSorted(), [...types].toSorted())
    })
  }

  test('of several recipients is delivered when each has it, and the worst of them before', async () => {
    const id = await insertOne({ to: ['ann@example.net', 'Bob@example.net'], bcc: ['cy@example.net'] })
    await apply(db, [eventOf(id, 'delivered', { recipient: 'ann@example.net' })])
    assert.equal(await statusOf(database, id), 'sent')
    await apply(db, [eventOf(id, 'delivered', { recipient: 'bob@example.net' })])
    assert.equal(await statusOf(database, id), 'sent')
    await database.query(
      "insert into mail.event (message_id, type, recipient) values ($1, 'recipient_refused', 'cy@example.net')",
      [id],
    )
    await apply(db, [eventOf(id, 'delivered', { recipient: 'ann@example.net' })])
    assert.equal(await statusOf(database, id), 'delivered')
    await apply(db, [eventOf(id, 'bounced', { recipient: 'bob@example.net' })])
    assert.equal(await statusOf(database, id), 'bounced')
    const rows = await database.query(
      "select type, recipient from mail.event where message_id = $1 and type = 'bounced'",
      [id],
    )
    assert.deepEqual(rows, [{ type: 'bounced', recipient: 'bob@example.net' }])
  })

  test('names the only recipient when the provider does not', async () => {
    const id = await insertOne({ to: ['Solo@example.net'] })
    await apply(db, [eventOf(id, 'complained')])
    const [row] = await database.query('select recipient from mail.event where message_id = $1', [id])
    assert.deepEqual(row, { recipient: 'solo@example.net' })
    assert.ok((await suppressions(database)).some(({ address }) => address === 'solo@example.net'))
  })

  for (const status of ['canceled', 'suppressed'] as const) {
    test(`${status} stays, and the timeline tells`, async () => {
      const id = await insertOne({ status })
      await apply(db, [eventOf(id, 'delivered')])
      assert.equal(await statusOf(database, id), status)
      assert.deepEqual(await eventTypesOf(database, id), ['delivered'])
    })
  }
})

describe('a message whose outcome was in doubt', () => {
  for (const status of ['unknown', 'deferred', 'queued', 'dead']) {
    test(`${status}: any event proves that the provider took it, once`, async () => {
      const id = await insertOne({ status })
      if (status === 'dead') {
        await database.query(
          `insert into mail.dead_letter (message_id, stage, code, reason, stream, source)
           values ($1, 'dispatch', 'worker_died', 'x', 'transactional', 'test')`,
          [id],
        )
      }
      await apply(db, [eventOf(id, 'deferred')])
      assert.equal(await statusOf(database, id), 'sent')
      await apply(db, [eventOf(id, 'delivered')])
      assert.equal(await statusOf(database, id), 'delivered')
      const types = await eventTypesOf(database, id)
      assert.deepEqual(types.toSorted(), ['deferred', 'delivered', 'sent'])
      const [row] = await database.query<{ sent: boolean }>(
        'select sent_at = claimed_at as sent from mail.message where id = $1',
        [id],
      )
      assert.equal(row?.sent, true)
      assert.equal(
        (await database.query('select from mail.dead_letter where message_id = $1', [id])).length,
        0,
      )
    })
  }

  const UNDER_WAY: readonly StoredMessage[] = [
    { status: 'accepted', attempts: 0 },
    { status: 'queued', attempts: 0 },
    { status: 'deferred', isPartlySettled: true },
  ]
  for (const message of UNDER_WAY) {
    test(`but ${JSON.stringify(message)} is under way, and its event waits`, async () => {
      const id = await insertOne(message)
      const event = eventOf(id, 'delivered')
      await apply(db, [event, event])
      assert.equal(await statusOf(database, id), message.status)
      const waiting = await database.query(
        'select message_id, tries from mail.feedback_unmatched where key = $1',
        [event.key],
      )
      assert.deepEqual(waiting, [{ message_id: id, tries: 0 }])
    })
  }
})

describe('events that cannot be applied yet', () => {
  const log = createLog('silent')
  const dueNow = () =>
    database.query('update mail.feedback_unmatched set next_try_at = now() where next_try_at is not null')

  test('are applied when their message was settled, once', async () => {
    const id = await insertOne({ to: ['early@example.net'] })
    await database.query("insert into mail.worker (name) values ('here') on conflict do nothing")
    await database.query("update mail.message set status = 'sending', worker = 1 where id = $1", [id])
    const event = eventOf(id, 'bounced', { bounce: { kind: 'hard', code: '5.1.1', reason: 'No such user' } })
    await apply(db, [event])
    await dueNow()
    await retryUnmatched({ db, log }, 100)
    assert.equal(await statusOf(database, id), 'sending')
    await database.query("update mail.message set status = 'sent', worker = null where id = $1", [id])
    await dueNow()
    await retryUnmatched({ db, log }, 100)
    await apply(db, [event])
    assert.equal(await statusOf(database, id), 'bounced')
    assert.deepEqual(await eventTypesOf(database, id), ['bounced'])
    const left = await database.query('select from mail.feedback_unmatched where key = $1', [event.key])
    assert.equal(left.length, 0)
    const listed = (await suppressions(database)).filter(({ address }) => address === 'early@example.net')
    assert.deepEqual(
      listed.map(({ scope, origin, evidence }) => [scope, origin, evidence?.code, evidence?.message_id]),
      [['*', 'bounce', '5.1.1', id]],
    )
  })

  test('are given up after a while, kept, and suppress nobody', async () => {
    const event = eventOf('0190a1b2-0000-7000-8000-000000000000', 'complained', {
      recipient: 'stranger@example.net',
    })
    await apply(db, [event])
    for (let tries = 1; tries <= 11; tries += 1) {
      await dueNow()
      await retryUnmatched({ db, log }, 1_000)
    }
    const rows = await database.query(
      "select tries, next_try_at, event ->> 'type' as type from mail.feedback_unmatched where key = $1",
      [event.key],
    )
    assert.deepEqual(rows, [{ tries: 11, next_try_at: null, type: 'complained' }])
    assert.ok(!(await suppressions(database)).some(({ address }) => address === 'stranger@example.net'))
  })
})

describe('the message of an event is found', () => {
  test('by Message-ID, with brackets and without', async () => {
    for (const text of [
      (id: string) => `<${id}@example.com>`,
      (id: string) => `${id.toUpperCase()}@example.com`,
    ]) {
      const id = await insertOne()
      await apply(db, [eventOf('', 'delivered', { match: { messageId: text(id) } })])
      assert.equal(await statusOf(database, id), 'delivered')
    }
  })

  const FORMS = [
    ['0100018f-abc-000000', '<0100018f-abc-000000@eu-west-1.amazonses.com>'],
    ['14c5d75ce93.dfd.64b469', '14c5d75ce93.dfd.64b469.filter0001.16648.5515E0B88.0'],
    ['KCvMNpbcS2G8zi4JJFJy0w', 'KCvMNpbcS2G8zi4JJFJy0w.recvd-56c57d8b9b-abcde-1-66A-12.0'],
    ['20260101.1.ABC@mg.example.com', '<20260101.1.ABC@mg.example.com>'],
  ] as const
  for (const [stored, told] of FORMS) {
    test(`by the provider's id ${told}`, async () => {
      const id = await insertOne()
      await database.query(
        "insert into mail.provider_ref (message_id, provider, provider_message_id) values ($1, 'default', $2)",
        [id, stored],
      )
      await apply(db, [eventOf('', 'opened', { provider: 'other', match: { providerMessageId: told } })])
      assert.equal(await statusOf(database, id), 'sent', 'an id of another provider')
      await apply(db, [eventOf('', 'delivered', { match: { providerMessageId: told } })])
      assert.equal(await statusOf(database, id), 'delivered')
    })
  }
})

test('an event about what the intake refused is not believed: its content was never checked, and never sent', async () => {
  const [refused] = await database.query<{ id: string }>(
    `with message as (
       insert into mail.message (id, seq, accepted_at, priority, status, stream, source)
       values (mail.uuid7(), nextval('mail.message_seq'), now(), 3, 'dead', 'transactional', 'test') returning id
     ), content as (
       insert into mail.message_content (id, message)
       select id, '{"from":5,"to":[{"address":"ann@example.net"}],"tags":5}' from message
     )
     insert into mail.event (message_id, type, detail) select id, 'dead', '{"stage":"intake"}' from message
     returning message_id as id`,
  )
  const id = refused?.id ?? ''
  await apply(db, [eventOf(id, 'bounced', { recipient: 'ann@example.net' })])
  const events = await database.query('select type from mail.event where message_id = $1', [id])
  assert.deepEqual(events, [{ type: 'dead' }])
  assert.equal(await statusOf(database, id), 'dead')
})

test('whatever an event holds, it is stored or waits, and its neighbours are applied', async () => {
  const id = await insertOne()
  const hostile = fc.record({
    key: fc.string({ unit: 'binary', maxLength: 400 }),
    type: fc.constantFrom(...FEEDBACK_TYPES),
    at: fc.date({ noInvalidDate: false }),
    provider: fc.string({ unit: 'binary' }),
    match: fc.oneof(
      fc.constant({ sluiceId: id }),
      fc.record({
        messageId: fc.string({ unit: 'binary' }),
        providerMessageId: fc.string({ unit: 'binary' }),
      }),
    ),
    recipient: fc.string({ unit: 'binary' }),
    bounce: fc.record({
      kind: fc.constantFrom('hard' as const, 'soft' as const, 'undetermined' as const),
      code: fc.string({ unit: 'binary' }),
      reason: fc.string({ unit: 'binary' }),
    }),
    detail: fc.dictionary(fc.string({ unit: 'binary' }), fc.jsonValue()),
  })
  await fc.assert(
    fc.asyncProperty(fc.array(hostile, { maxLength: 10 }), async (events) => {
      const good = eventOf(id, 'deferred')
      await apply(db, [...events, good])
      const seen = await database.query('select from mail.feedback_seen where message_id = $1 and key = $2', [
        id,
        good.key,
      ])
      assert.equal(seen.length, 1)
    }),
    { numRuns: 40 },
  )
})

type EndState = { readonly statuses: unknown; readonly events: unknown; readonly suppressed: unknown }

async function endState({ query }: TestDatabase, ids: readonly string[]): Promise<EndState> {
  const place = new Map(ids.map((id, index) => [id, index]))
  const named = (text: string) => ids.reduce((rest, id) => rest.replaceAll(id, `#${place.get(id)}`), text)
  const statuses = await query<{ id: string; status: string }>(
    'select id, status from mail.message where id = any ($1) order by id',
    [ids],
  )
  const events = await query<{ message_id: string }>(
    'select message_id, type, recipient, at, detail from mail.event where message_id = any ($1)',
    [ids],
  )
  return {
    statuses: statuses.map(({ id, status }) => named(`${id} ${status}`)).toSorted(),
    events: events.map((row) => named(JSON.stringify(row))).toSorted(),
    suppressed: (await suppressions(database)).map((row) => named(JSON.stringify(row))),
  }
}

const PEOPLE = ['ann@example.net', 'bob@example.net']
const NOW = Date.now()
const DAY = 86_400_000

test('any order, repetition and grouping of events comes to the same end state', async () => {
  const told = fc.record({
    message: fc.nat(7),
    type: fc.constantFrom('delivered', 'bounced', 'complained', 'opened', 'deferred', 'unsubscribed'),
    recipient: fc.constantFrom(...PEOPLE),
    daysAgo: fc.nat(12),
    kind: fc.constantFrom('hard', 'soft', 'soft', 'soft', 'soft', 'undetermined'),
    key: fc.nat(1_000_000),
  })
  const stories = fc.array(told, { minLength: 1, maxLength: 25 })
  await fc.assert(
    fc.asyncProperty(stories, fc.infiniteStream(fc.nat(3)), async (story, sizes) => {
      const run = async (order: (events: FeedbackEvent[]) => FeedbackEvent[][]) => {
        await database.query('delete from mail.suppression')
        const ids = await insertMessages(
          database,
          Array.from({ length: 8 }, (_, index) => ({
            to: PEOPLE,
            status: index === 0 ? 'unknown' : 'sent',
            stream: 'marketing',
          })),
        )
        // A run's events are of its own messages; those of the run before must not count for the addresses.
        await database.query('delete from mail.event where message_id <> all ($1)', [ids])
        const events = story.map((each, index) =>
          eventOf(ids[each.message] ?? '', each.type as FeedbackEvent['type'], {
            key: `${each.key}-${index}`,
            at: new Date(NOW - each.daysAgo * DAY - index * 1_000),
            recipient: each.recipient,
            ...(each.type === 'bounced'
              ? { bounce: { kind: each.kind as 'soft', code: each.kind === 'hard' ? '5.1.1' : '4.2.2' } }
              : {}),
          }),
        )
        for (const group of order(events)) await apply(db, group)
        const state = await endState(database, ids)
        return {
          ...state,
          events: (state.events as string[]).filter((text) => !text.includes('"type":"sent"')),
        }
      }
      const inOneGo = await run((events) => [events])
      const scattered = await run((events) => {
        const many = shuffled([...events, ...events, ...events])
        const groups: FeedbackEvent[][] = []
        while (many.length > 0) groups.push(many.splice(0, 1 + (sizes.next().value ?? 0)))
        return groups
      })
      assert.deepEqual(scattered, inOneGo)
    }),
    { numRuns: 25 },
  )
})

test('a storm of 5,000 events, each five times, shuffled over four workers, counts each once', async (t) => {
  const own = await createTestDatabase(t)
  const pool = openTestPool(own, 4)
  const ids = await insertMessages(
    own,
    Array.from({ length: 1_000 }, (_, index) => ({ to: [`user${index}@example.net`] })),
  )
  const types = ['delivered', 'opened', 'clicked', 'deferred'] as const
  const events = ids.flatMap((id, index) => [
    ...types.map((type) => eventOf(id, type)),
    eventOf(id, index % 10 === 0 ? 'bounced' : index % 25 === 1 ? 'complained' : 'opened', {
      bounce: { kind: 'hard', code: '5.1.1' },
    }),
  ])
  assert.equal(events.length, 5_000)
  const told = shuffled([...events, ...events, ...events, ...events, ...events])
  const batches = Array.from({ length: 50 }, (_, index) => told.slice(index * 500, (index + 1) * 500))
  const work = async () => {
    for (let batch = batches.pop(); batch !== undefined; batch = batches.pop()) await apply(pool, batch)
  }
  await Promise.all([work(), work(), work(), work()])

  const [counts] = await own.query(
    `select count(*)::integer as events, count(distinct (message_id, type, at))::integer as seen
     from mail.event`,
  )
  assert.equal((counts as { events: number }).events, 5_000)
  const statuses = await own.query(
    'select status, count(*)::integer as count from mail.message group by status order by status',
  )
  assert.deepEqual(statuses, [
    { status: 'bounced', count: 100 },
    { status: 'complained', count: 40 },
    { status: 'delivered', count: 860 },
  ])
  assert.equal((await suppressions(own)).length, 140)
  assert.equal((await own.query('select from mail.feedback_unmatched')).length, 0)
})
