import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Database, openPool } from '../../src/db/pool.ts'
import { inTransaction } from '../../src/db/transaction.ts'
import { createLog } from '../../src/log.ts'
import { countEvents } from '../../src/upkeep/statistics.ts'
import { addToStatistics, takeCursor } from '../../src/upkeep/statistics-queries.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'

type Line = Readonly<Record<string, string | number | null>>

function open(database: TestDatabase): Database {
  const { db, close } = openPool({
    url: database.url,
    maxConnections: 4,
    role: undefined,
    log: createLog('silent'),
  })
  database.beforeDrop(close)
  return db
}

type Sample = {
  readonly to?: string
  readonly provider?: string
  readonly tags?: readonly string[]
  readonly tookS?: number
  readonly events?: readonly string[]
}

/** A message that was sent so long after its acceptance, and what came back. */
async function addMessage({ query }: TestDatabase, sample: Sample): Promise<void> {
  const { to = 'ann@example.net', provider = 'default', tags = [], tookS = 1, events = ['sent'] } = sample
  await query(
    `with message as (
       insert into mail.message (id, seq, accepted_at, priority, status, stream, provider, source)
       values (mail.uuid7(), nextval('mail.message_seq'), now() - make_interval(secs => $3), 3, 'sent', 'transactional', $2, 'test')
       returning id
     ), content as (
       insert into mail.message_content (id, message, recipient_domain, tags) select id, '{}', $1, $5 from message
     )
     insert into mail.event (message_id, type, at) select id, type, now() from message cross join unnest($4::text[]) type`,
    [to.split('@')[1], provider, tookS, events, tags],
  )
}

/** Counts until so many events were read: other tests' open transactions hold the feed back for a moment. */
async function countAll(db: Database, events: number): Promise<void> {
  let seen = 0
  await eventually(`${events} events counted`, async () => {
    seen += await countEvents(db)
    return seen >= events
  })
  assert.equal(seen, events)
}

test('events are counted once, per provider, domain and tag, with an estimate of the time to send', async (t) => {
  const database = await createTestDatabase(t)
  const db = open(database)
  for (let n = 0; n < 10; n++)
    await addMessage(database, { events: ['queued', 'sent', 'delivered'], tookS: 3 })
  await addMessage(database, {
    to: 'bob@example.org',
    provider: 'second',
    events: ['sent', 'bounced'],
    tookS: 3,
  })
  await addMessage(database, {
    tags: ['kind:receipt', 'shop:north'],
    events: ['sent', 'opened', 'opened', 'clicked'],
    tookS: 3,
  })
  await countAll(db, 36)

  const rows = await database.query<Line>(
    `select provider, domain, sent::int, delivered::int, bounced::int, opened::int, clicked::int
       from mail.stat where tag = '' order by provider, domain`,
  )
  assert.deepEqual(rows, [
    {
      provider: 'default',
      domain: 'example.net',
      sent: 11,
      delivered: 10,
      bounced: 0,
      opened: 2,
      clicked: 1,
    },
    { provider: 'second', domain: 'example.org', sent: 1, delivered: 0, bounced: 1, opened: 0, clicked: 0 },
  ])

  const tags = await database.query<Line>(
    `select tag, sent::int, opened::int from mail.stat where tag <> '' order by tag`,
  )
  assert.deepEqual(tags, [
    { tag: 'kind:receipt', sent: 1, opened: 2 },
    { tag: 'shop:north', sent: 1, opened: 2 },
  ])

  const [row] = await database.query<{ p50_s: number; p99_s: number }>(
    `select p50_s, p99_s from mail.stats where provider = 'default' and tag = ''`,
  )
  assert.ok(row !== undefined && row.p50_s >= 2 && row.p99_s <= 5, JSON.stringify(row))
})

test('a crash before the commit counts nothing twice and nothing never', async (t) => {
  const database = await createTestDatabase(t)
  const db = open(database)
  for (let n = 0; n < 20; n++) await addMessage(database, {})
  await eventually('the events can be read', async () => {
    const rows = await database.query('select from mail.read_events(null, 100)')
    return rows.length === 20
  })
  await assert.rejects(
    inTransaction(db, async (trx) => {
      assert.equal(await addToStatistics(trx, (await takeCursor(trx)) ?? '', 7), 7)
      throw new Error('the process dies here')
    }),
    /dies here/,
  )
  await eventually('nothing is left', async () => (await countEvents(db, 7)) === 0)
  const [row] = await database.query<{ sent: number }>('select sum(sent)::int as sent from mail.stat')
  assert.equal(row?.sent, 20)
})

test('two processes at once count each event once', async (t) => {
  const database = await createTestDatabase(t)
  const [first, second] = [open(database), open(database)]
  for (let n = 0; n < 30; n++) await addMessage(database, {})
  await eventually('all are counted', async () => {
    await Promise.all([countEvents(first, 4), countEvents(second, 4)])
    const [row] = await database.query<{ sent: number }>(
      'select coalesce(sum(sent), 0)::int as sent from mail.stat',
    )
    assert.ok((row?.sent ?? 0) <= 30)
    return row?.sent === 30
  })
})

test('beyond 500 a day, domains and tags are counted together', async (t) => {
  const database = await createTestDatabase(t)
  const db = open(database)
  await database.query(
    `with message as (
       insert into mail.message (id, seq, accepted_at, priority, status, stream, source)
       select mail.uuid7(), nextval('mail.message_seq'), now(), 3, 'sent', 'transactional', 'test' from generate_series(1, 600)
       returning id, seq
     ), content as (
       insert into mail.message_content (id, message, recipient_domain, tags)
       select id, '{}', 'd' || seq || '.example', array['order:' || seq] from message
     )
     insert into mail.event (message_id, type) select id, 'sent' from message`,
  )
  await countAll(db, 600)
  const [row] = await database.query<Line>(
    `select
       count(distinct domain) filter (where tag = '')::int as domains,
       sum(sent) filter (where tag = '')::int as sent,
       sum(sent) filter (where domain = '(other)')::int as other_domains,
       sum(sent) filter (where tag = '(other)')::int as other_tags
     from mail.stat`,
  )
  assert.deepEqual(row, { domains: 501, sent: 600, other_domains: 100, other_tags: 100 })
})

test('a suppressed message is counted once, however many recipients it had', async (t) => {
  const database = await createTestDatabase(t)
  const db = open(database)
  await addMessage(database, { events: ['suppressed'] })
  await database.query(
    `insert into mail.event (message_id, type, recipient)
     select id, 'suppressed', unnest('{ann@example.net,bob@example.net}'::text[]) from mail.message`,
  )
  await countAll(db, 3)
  assert.deepEqual(await database.query('select suppressed::int from mail.stat'), [{ suppressed: 1 }])
})

test('what the intake refused is counted although it cannot be read', async (t) => {
  const database = await createTestDatabase(t)
  const db = open(database)
  await database.query(
    `with message as (
       insert into mail.message (id, seq, accepted_at, priority, status, stream, source)
       values (mail.uuid7(), 1, now(), 3, 'dead', 'no such stream', 'test') returning id
     ), content as (
       insert into mail.message_content (id, message) select id, '{"to":[{"address":"\\u0000@x"}]}' from message
     )
     insert into mail.event (message_id, type, detail) select id, 'dead', '{"stage":"intake"}' from message`,
  )
  await countAll(db, 1)
  assert.deepEqual(await database.query('select stream, dead::int from mail.stat'), [
    { stream: '(unknown)', dead: 1 },
  ])
})
