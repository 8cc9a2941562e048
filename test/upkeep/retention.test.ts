import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { Client } from 'pg'
import { inTransaction } from '../../src/db/transaction.ts'
import { MESSAGE_STATES, type MessageState } from '../../src/states.ts'
import { purgeAttachments, retain } from '../../src/upkeep/queries.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { openTestPool } from '../support/feedback.ts'
import { insertMany, untilAll } from '../support/messages.ts'
import { insertOld, makePartitions, type OldMessage, retainAll } from '../support/retention.ts'
import { startTestService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'

type PlanRow = { readonly action: string; readonly relation: string; readonly rows: number | null }

function planOf({ query }: Pick<TestDatabase, 'query'>): Promise<PlanRow[]> {
  return query('select action, relation, rows::integer as rows from mail.retention_plan()')
}

/** `all`, `envelope` or `metadata`: what is left of a message, or `nothing`. */
async function leftOf({ query }: Pick<TestDatabase, 'query'>, id: string): Promise<string> {
  const [row] = await query<{ left: string }>(
    `select case
       when not exists (select from mail.message where id = $1) then 'nothing'
       when exists (select from mail.message_content where id = $1 and removed_at is null) then 'all'
       when exists (select from mail.message_content where id = $1) then 'envelope'
       else 'metadata'
     end as left`,
    [id],
  )
  return row?.left ?? ''
}

const SETTLED: readonly MessageState[] = [
  'sent',
  'delivered',
  'bounced',
  'complained',
  'suppressed',
  'canceled',
]
const AGES = [0, 1, 2, 6, 10, 35, 50, 120]
const STREAMS = ['transactional', 'marketing', 'alerts'] as const

const anyDays = fc
  .tuple(fc.constantFrom(0, 1, 5, 30), fc.constantFrom(0, 4, 60))
  .map(([content, more]) => ({ content, metadata: content + more }))
const anyMessage = fc.record({
  daysAgo: fc.constantFrom(...AGES),
  stream: fc.constantFrom(...STREAMS),
  status: fc.constantFrom(...MESSAGE_STATES),
})

test('what is left of a message follows from its age, its stream and whether it is settled, wherever it lies', async (t) => {
  const database = await createTestDatabase(t)
  const db = openTestPool(database)
  await fc.assert(
    fc.asyncProperty(
      fc.record({ transactional: anyDays, marketing: anyDays, alerts: anyDays }),
      fc.array(anyMessage, { minLength: 1, maxLength: 40 }),
      fc.constantFrom(0, 20),
      fc.constantFrom(40, 3650),
      fc.subarray(AGES.slice(2)),
      async (days, messages, envelopeDays, deadLetterDays, withPartition) => {
        await database.query(
          `truncate mail.message, mail.message_content, mail.message_prepared, mail.event, mail.finder,
             mail.provider_ref, mail.feedback_seen, mail.dead_letter, mail.retention_mark`,
        )
        for (const [name, { content, metadata }] of Object.entries(days)) {
          await database.query(
            'update mail.stream set content_days = $2, metadata_days = $3 where name = $1',
            [name, content, metadata],
          )
        }
        await database.query('update mail.retention set envelope_days = $1, dead_letter_days = $2', [
          envelopeDays,
          deadLetterDays,
        ])
        await makePartitions(database, withPartition)
        const ids = await insertOld(database, messages)
        const steps = await retainAll(db, 7)
        for (const [index, { daysAgo, stream, status }] of messages.entries()) {
          const { content, metadata } = days[stream]
          const isGivenUp = status === 'dead' && daysAgo > deadLetterDays
          const left = await leftOf(database, ids[index] ?? '')
          const told = `${status} in ${stream} of ${daysAgo} days ago, with ${JSON.stringify({ days, steps })}`
          if (!SETTLED.includes(status) && !isGivenUp) assert.equal(left, 'all', told)
          else if (daysAgo > metadata) assert.equal(left, 'nothing', told)
          else if (daysAgo > content) {
            // Never less than was promised; more only when a longer stream holds the day's partition.
            const isPromised = daysAgo <= Math.min(metadata, Math.max(content, envelopeDays))
            assert.ok(left === 'envelope' || (left === 'metadata' && !isPromised), `${left} of ${told}`)
          } else assert.equal(left, 'all', told)
        }
        assert.deepEqual(await planOf(database), [])
        const orphans = await database.query(
          `select 'event' from mail.event where message_id not in (select id from mail.message)
           union all select 'finder' from mail.finder where message_id not in (select id from mail.message)
           union all select 'ref' from mail.provider_ref where message_id not in (select id from mail.message)
           union all select 'seen' from mail.feedback_seen where message_id not in (select id from mail.message)
           union all select 'content' from mail.message_content where id not in (select id from mail.message)
           union all select 'prepared' from mail.message_prepared where id not in (select id from mail.message)`,
        )
        assert.deepEqual(orphans, [])
        return true
      },
    ),
    { numRuns: 12 },
  )
})

test('the plan says what would go, and exactly that goes', async (t) => {
  const database = await createTestDatabase(t)
  const db = openTestPool(database)
  await database.query("update mail.stream set content_days = 3, metadata_days = 10 where name = 'alerts'")
  await makePartitions(database, [100, 20])
  const mail: OldMessage[] = [
    { daysAgo: 100 },
    { daysAgo: 100, status: 'dead' },
    { daysAgo: 20, stream: 'alerts' },
    { daysAgo: 20 },
  ]
  await insertOld(database, mail)
  await database.query(
    `insert into mail.idempotency (scope, key, fingerprint, message_ids, expires_at) values
       ('send', 'old', '', '{}', now() - interval '1 s'), ('send', 'new', '', '{}', now() + interval '1 h')`,
  )
  await database.query('analyze mail.message')
  const before = await database.query('select from mail.message')
  const plan = await planOf(database)
  assert.equal((await database.query('select from mail.message')).length, before.length)
  const daily = plan.filter(({ action }) => action === 'drop partition')
  assert.equal(daily.length, 7)
  assert.equal(daily.find(({ relation }) => /^message_\d/.test(relation))?.rows, 2)
  const bytes = await database.query(
    'select from mail.retention_plan() where bytes is null or before is null',
  )
  assert.equal(bytes.length, 0)
  const rows = plan.filter(({ action }) => action !== 'drop partition')
  const done = await retainAll(db)
  assert.deepEqual(done.filter(({ action }) => action !== 'drop partition').slice(0, rows.length), rows)
  assert.deepEqual(
    done.filter(({ action }) => action === 'drop partition').map(({ relation }) => relation),
    daily.map(({ relation }) => relation),
  )
  assert.deepEqual(await database.query('select key from mail.idempotency'), [{ key: 'new' }])
})

describe('what is not settled outlives its day', () => {
  test('waiting mail, and dead letters that can be retried, stay whole when the day is dropped', async (t) => {
    const database = await createTestDatabase(t)
    const db = openTestPool(database)
    await database.query('update mail.retention set dead_letter_days = 200')
    await makePartitions(database, [100])
    const [waiting = '', dead = '', sent = ''] = await insertOld(database, [
      { daysAgo: 100, status: 'accepted' },
      { daysAgo: 100, status: 'dead' },
      { daysAgo: 100 },
    ])
    await retainAll(db)
    assert.deepEqual(await Promise.all([waiting, dead, sent].map((id) => leftOf(database, id))), [
      'all',
      'all',
      'nothing',
    ])
    const places = await database.query<{ place: string }>(
      'select distinct tableoid::regclass::text as place from mail.event',
    )
    assert.deepEqual(places, [{ place: 'mail.event_default' }])
    await database.query('select mail.dlq_discard($1::uuid)', [dead])
    await database.query("update mail.message set status = 'sent' where id = $1", [waiting])
    await retainAll(db)
    assert.deepEqual(await Promise.all([waiting, dead].map((id) => leftOf(database, id))), [
      'nothing',
      'nothing',
    ])
  })

  test('mail that comes back under its old id while the day is being dropped is not lost', async (t) => {
    const database = await createTestDatabase(t)
    const db = openTestPool(database)
    await makePartitions(database, [100])
    await insertOld(database, [{ daysAgo: 100 }])
    // Uncommitted while retention looks at the day, committed while it waits for the lock.
    const mover = new Client({ connectionString: database.url })
    await mover.connect()
    database.beforeDrop(() => mover.end())
    await mover.query('begin')
    const [late = ''] = await insertOld(
      { query: async (text, values) => (await mover.query(text, values)).rows },
      [{ daysAgo: 100, status: 'accepted' }],
    )
    const retaining = retainAll(db)
    for (let isWaiting = false; !isWaiting; ) {
      const { rowCount } = await mover.query(
        'select from pg_locks where not granted and database = (select oid from pg_database where datname = current_database())',
      )
      isWaiting = (rowCount ?? 0) > 0
    }
    await mover.query('commit')
    await retaining
    await retainAll(db)
    assert.equal((await database.query('select from mail.event where message_id = $1', [late])).length, 1)
    assert.equal(await leftOf(database, late), 'all')
  })
})

test('a day that somebody uses is left for another time, and nobody else waits long for it', async (t) => {
  const database = await createTestDatabase(t)
  const db = openTestPool(database)
  await makePartitions(database, [100])
  const [id = ''] = await insertOld(database, [{ daysAgo: 100 }])
  await inTransaction(openTestPool(database, 1), async (reader) => {
    await reader.selectFrom('mail.message').select('id').where('id', '=', id).execute()
    const steps = await retainAll(db)
    assert.ok(!steps.some(({ relation }) => /^message_\d/.test(relation)))
  })
  const steps = await retainAll(db)
  assert.equal(steps.filter(({ relation }) => /^message_\d/.test(relation)).length, 1)
  assert.equal(await leftOf(database, id), 'nothing')
})

test('days are dropped when nothing else is left: a table in use is not asked for with every step', async (t) => {
  const database = await createTestDatabase(t)
  const db = openTestPool(database)
  await database.query("update mail.stream set content_days = 3 where name = 'alerts'")
  await makePartitions(database, [100, 20])
  const [id = ''] = await insertOld(database, [{ daysAgo: 100 }, { daysAgo: 20, stream: 'alerts' }])
  await inTransaction(openTestPool(database, 1), async (reader) => {
    await reader.selectFrom('mail.message').select('id').where('id', '=', id).execute()
    const actions = (await retainAll(db)).map(({ action }) => action)
    assert.equal(actions[0], 'remove content')
    const first = actions.indexOf('drop partition')
    assert.ok(first > 0)
    assert.ok(actions.slice(first).every((action) => action === 'drop partition'))
  })
})

test('days are dropped under live mail: nothing is lost, nobody runs into a deadlock', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  const days = Array.from({ length: 6 }, (_, index) => 95 + index)
  await makePartitions(database, days)
  await insertOld(
    database,
    days.map((daysAgo) => ({ daysAgo })),
  )
  // Its own upkeep retains as well.
  await startTestService(database, { SMTP_URL: sink.url })
  const db = openTestPool(database)
  const old = 'select from mail.message where id < mail.over_before(90)'
  const [ids] = await Promise.all([
    insertMany(database, 300),
    eventually('all old days are gone', async () => {
      await retain(db)
      return (await database.query(old)).length === 0
    }),
  ])
  await untilAll(database, ids.length, 'sent')
  assert.equal(sink.mails.length, ids.length)
  const [seen] = await database.query<{ deadlocks: number }>(
    'select deadlocks::integer from pg_stat_database where datname = current_database()',
  )
  assert.equal(seen?.deadlocks, 0)
})

test('only one process at a time retains', async (t) => {
  const database = await createTestDatabase(t)
  const db = openTestPool(database)
  await database.query(
    `insert into mail.idempotency (scope, key, fingerprint, message_ids, expires_at)
     values ('send', 'old', '', '{}', now() - interval '1 s')`,
  )
  await inTransaction(db, async (trx) => {
    await trx.selectNoFrom(({ fn, val }) => fn('mail.retain', [val(1)]).as('done')).execute()
    assert.equal(await retain(openTestPool(database, 1)), undefined)
  })
})

test('bytes of attachments go with the last content that carries them, and stay with what is held back', async (t) => {
  const database = await createTestDatabase(t)
  const db = openTestPool(database)
  await database.query("update mail.stream set content_days = 1 where name = 'alerts'")
  const store = async (text: string) => {
    await database.query(
      `insert into mail.attachment (sha256, size, content, given_at)
       values (sha256($1::bytea), length($1), $1::bytea, now() - interval '3 days')`,
      [text],
    )
    return createHash('sha256').update(text).digest('hex')
  }
  const [short, shared, held] = [await store('short'), await store('shared'), await store('held')]
  const sealed = await store('sealed')
  const ids = await insertOld(database, [
    { daysAgo: 5, stream: 'alerts', sha256: short },
    { daysAgo: 5, stream: 'alerts', sha256: shared },
    { daysAgo: 5, sha256: shared },
    { daysAgo: 5, stream: 'alerts', status: 'dead', sha256: held },
    { daysAgo: 7, stream: 'alerts', status: 'dead', sha256: sealed },
  ])
  // Nobody can read which bytes sensitive mail carries.
  await database.query('update mail.message set is_sensitive = true where id = $1', [ids[4]])
  await database.query(`update mail.message_content set message = '{"to":[]}' where id = $1`, [ids[4]])
  await retainAll(db)
  await purgeAttachments(db)
  const left = async () => {
    const rows = await database.query<{ text: string }>(
      "select convert_from(content, 'UTF8') as text from mail.attachment order by 1",
    )
    return rows.map(({ text }) => text)
  }
  assert.deepEqual(await left(), ['held', 'sealed', 'shared'])
  for (const id of [ids[3], ids[4]]) await database.query('select mail.dlq_discard($1::uuid)', [id])
  // What is held back is looked at again a day later.
  await database.query("update mail.retention_mark set looked_at = now() - interval '2 days'")
  await retainAll(db)
  await purgeAttachments(db)
  assert.deepEqual(await left(), ['shared'])
})

/** Rows that are past the time of their table, and the same that are not. */
const TABLES: readonly (readonly [string, string, string])[] = [
  [
    'feedback',
    `insert into mail.feedback (endpoint, kind, event_key, body, state, reason, received_at)
     select 'x', 'resend', state || age, '', state, 'x', now() - make_interval(days => age)
     from unnest('{applied,parked,waiting}'::text[]) state, unnest('{29,31,89,91}'::integer[]) age`,
    'select event_key as kept from mail.feedback',
  ],
  [
    'feedback_unmatched',
    `insert into mail.feedback_unmatched (provider, key, event, received_at, next_try_at)
     select '', name, '{}', now() - age, next_try_at
     from (values ('given up', interval '31 days', null), ('tried', '31 days', now()), ('young', '29 days', null)) r (name, age, next_try_at)`,
    'select key as kept from mail.feedback_unmatched',
  ],
  [
    'provider_event',
    "insert into mail.provider_event (provider, type, reason, at) select 'p', 'opened', age::text, now() - make_interval(days => age) from unnest('{89,91}'::integer[]) age",
    'select reason as kept from mail.provider_event',
  ],
  [
    'stat',
    `insert into mail.stat (day, stream, provider, template, template_version, domain, tag)
     select current_date - age, 's', '', age::text, 0, '', '' from unnest('{398,402}'::integer[]) age`,
    'select template as kept from mail.stat',
  ],
  [
    'suppression',
    `insert into mail.suppression (address, reason, expires_at)
     values ('ended@example.net', 'x', now() - interval '31 days'), ('lately@example.net', 'x', now() - interval '29 days'),
       ('never@example.net', 'x', null)`,
    'select address as kept from mail.suppression',
  ],
]
const KEPT: Readonly<Record<string, readonly string[]>> = {
  feedback: [
    'applied29',
    'parked29',
    'parked31',
    'parked89',
    'waiting29',
    'waiting31',
    'waiting89',
    'waiting91',
  ],
  feedback_unmatched: ['tried', 'young'],
  provider_event: ['89'],
  stat: ['398'],
  suppression: ['lately@example.net', 'never@example.net'],
}

describe('what is of no message has a time of its own', () => {
  for (const [table, insert, read] of TABLES) {
    test(table, async (t) => {
      const database = await createTestDatabase(t)
      const db = openTestPool(database)
      await database.query(insert)
      await retainAll(db)
      const rows = await database.query<{ kept: string }>(read)
      assert.deepEqual(rows.map(({ kept }) => kept).toSorted(), KEPT[table])
    })
  }

  test('webhook deliveries that ended, with their attempts, and those of nobody', async (t) => {
    const database = await createTestDatabase(t)
    const db = openTestPool(database)
    const [endpoint] = await database.query<{ id: string }>(
      "select id from mail.webhook_create('https://app.example.com/hooks')",
    )
    await database.query(
      `with old as (
         insert into mail.webhook_delivery (id, endpoint_id, message_id, event_id, type, payload, state)
         select
           overlay(mail.webhook_id_floor(now() - make_interval(days => days)) placing lpad(n::text, 2, '0') from 35 for 2),
           case state when 'orphan' then gen_random_uuid() else $1::uuid end, gen_random_uuid(), n, 'email.sent', '{}',
           case state when 'orphan' then 'pending' else state end
         from (values
           (1, 31, 'success'), (2, 31, 'failed'), (3, 31, 'attempting'), (4, 29, 'success'), (5, 31, 'orphan')
         ) as old (n, days, state)
         returning id
       )
       insert into mail.webhook_attempt (delivery_id, number, at, duration_ms) select id, 1, now(), 1 from old`,
      [endpoint?.id],
    )
    assert.deepEqual(
      (await retainAll(db, 2)).map(({ relation, rows }) => [relation, rows]),
      [
        ['webhook_delivery', 2],
        ['webhook_delivery', 1],
      ],
    )
    const left = await database.query('select event_id::integer as n from mail.webhook_delivery order by 1')
    assert.deepEqual(left, [{ n: 3 }, { n: 4 }])
    assert.equal((await database.query('select from mail.webhook_attempt')).length, 2)
  })
})
