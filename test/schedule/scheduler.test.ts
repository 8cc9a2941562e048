import assert from 'node:assert/strict'
import { before, describe, test } from 'node:test'
import { inTransaction } from '../../src/db/transaction.ts'
import { lockDue, msUntilDue } from '../../src/schedule/queries.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { eventTypesOf, insertMany, post, readMessage, untilAll, untilStatus } from '../support/messages.ts'
import { orderMail, startTestService } from '../support/service.ts'
import { type SmtpSink, startSmtpSink } from '../support/smtp-sink.ts'
import { sluiceIdOf } from '../support/sunk-mail.ts'
import { openSchedule } from './schedule-stage.ts'

async function inSeconds({ query }: TestDatabase, seconds: number): Promise<string> {
  const [row] = await query<{ at: Date }>('select now() + make_interval(secs => $1) as at', [seconds])
  return row?.at.toISOString() ?? ''
}

let database: TestDatabase
let schedule: Awaited<ReturnType<typeof openSchedule>>

before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  schedule = await openSchedule(database)
})

test('while nothing is scheduled there is nothing to wake up for', async () => {
  assert.equal(await msUntilDue(schedule.db), undefined)
})

describe('a message with a moment', () => {
  test('is stored as scheduled, from either door, without a job', async () => {
    const at = await inSeconds(database, 3_600)
    for (const door of ['intake', 'outbox']) {
      const [row] = await database.query<{ id: string }>(
        `insert into mail.${door} (message, priority) values ($1, 1) returning id`,
        [JSON.stringify(orderMail({ scheduled_at: at }))],
      )
      const id = row?.id ?? ''
      assert.deepEqual((await schedule.move()).get(id), { kind: 'stored' })
      const [stored] = await database.query(
        `select m.status, m.scheduled_at, c.message ->> 'scheduled_at' as given, s.due_at, s.priority, s.stream
         from mail.message m join mail.message_content c using (id) join mail.scheduled s on s.message_id = m.id
         where m.id = $1`,
        [id],
      )
      assert.deepEqual(stored, {
        status: 'scheduled',
        scheduled_at: new Date(at),
        given: at,
        due_at: new Date(at),
        priority: 1,
        stream: 'transactional',
      })
      assert.deepEqual(await schedule.jobs(id), [])
      const events = await database.query<{ type: string; at: string }>(
        "select type, detail ->> 'scheduled_at' as at from mail.event where message_id = $1",
        [id],
      )
      assert.deepEqual(
        events.map((event) => [event.type, new Date(event.at).toISOString()]),
        [['scheduled', at]],
      )
    }
  })

  test('given by SQL in words counts from the moment the row was inserted', async () => {
    const [row] = await database.query<{ id: string; received_at: Date }>(
      'insert into mail.outbox (message) values ($1) returning id, received_at',
      [JSON.stringify(orderMail({ scheduled_at: 'in 1 hour' }))],
    )
    await schedule.move()
    const [stored] = await database.query<{ scheduled_at: Date }>(
      'select scheduled_at from mail.message where id = $1',
      [row?.id],
    )
    assert.equal(stored?.scheduled_at.getTime(), (row?.received_at.getTime() ?? 0) + 3_600_000)
  })

  test('that has passed goes at once', async () => {
    const id = await schedule.accept({ scheduled_at: '2020-01-01T00:00:00Z' })
    const message = await readMessage(database, id)
    assert.equal(message?.status, 'accepted')
    assert.deepEqual(await schedule.jobs(id), ['process.transactional'])
  })

  test('that is none is a dead letter with the reason, as over REST', async () => {
    const [row] = await database.query<{ id: string }>(
      'insert into mail.outbox (message) values ($1) returning id',
      [JSON.stringify(orderMail({ scheduled_at: '2026-12-05T11:52:01' }))],
    )
    await schedule.move()
    const [letter] = await database.query<{ reason: string }>(
      'select reason from mail.dead_letter where message_id = $1',
      [row?.id],
    )
    assert.match(letter?.reason ?? '', /^Invalid `scheduled_at`: .* has no offset/)
    assert.deepEqual(await database.query('select from mail.scheduled where message_id = $1', [row?.id]), [])
  })

  test('is the same under one key however its words are read', async () => {
    const give = async () => {
      const [row] = await database.query<{ id: string }>(
        "insert into mail.outbox (message, idempotency_key) values ($1, 'words') returning id",
        [JSON.stringify(orderMail({ scheduled_at: 'in 1 hour' }))],
      )
      return (await schedule.move()).get(row?.id ?? '')
    }
    assert.deepEqual(await give(), { kind: 'stored' })
    assert.equal((await give())?.kind, 'replayed')
  })

  test('whose stream has mail for later keeps that stream, and mail.queue shows it', async () => {
    await database.query("insert into mail.stream (name) values ('later')")
    await database.query(
      `insert into mail.scheduled (message_id, due_at, priority, stream) values
         (gen_random_uuid(), now() - interval '10 s', 5, 'later'), (gen_random_uuid(), now() + interval '1 h', 5, 'later')`,
    )
    const rows = await database.query(
      "select ready, deferred, oldest_age > interval '9 s' as is_late from mail.queue where stage = 'scheduled' and stream = 'later'",
    )
    assert.deepEqual(rows, [{ ready: '1', deferred: '1', is_late: true }])
    await assert.rejects(database.query("delete from mail.stream where name = 'later'"), { code: '23503' })
    await database.query("delete from mail.scheduled where stream = 'later'")
    await database.query("delete from mail.stream where name = 'later'")
  })
})

describe('what is due', () => {
  test('is released in batches, urgent first, and no batch locks more than it takes', async (t) => {
    const database = await createTestDatabase(t)
    const schedule = await openSchedule(database)
    await insertMany(database, 800, { scheduled_at: 'in 1 hour', stream: 'marketing' })
    while ((await schedule.move()).size > 0);
    await database.query("update mail.scheduled set due_at = now() - interval '1 minute'")
    const urgent = await schedule.accept({ scheduled_at: 'in 1 hour', priority: 0 })
    await schedule.makeDue(urgent)
    const first = await schedule.release()
    assert.equal(first.length, 500)
    assert.ok(first.some(({ id }) => id === urgent))
    await inTransaction(schedule.db, async (trx) => {
      assert.equal((await lockDue(trx, 100)).length, 100)
      assert.equal((await schedule.release()).length, 201)
    })
    assert.equal((await schedule.release()).length, 100)
    const jobs = await database.query<{ name: string; size: number }>(
      "select name, jsonb_array_length(data -> 'ids') as size from pgboss.job order by size",
    )
    assert.ok(jobs.every(({ size }) => size <= 100))
    assert.equal(
      jobs.reduce((sum, { size }) => sum + size, 0),
      801,
    )
  })

  test('goes out within a second of its moment, not before it, and is followed by its timeline', async (t) => {
    const database = await createTestDatabase(t)
    const sink = await startSmtpSink(t)
    const service = await startTestService(database, { SMTP_URL: sink.url })
    const at = await inSeconds(database, 2)
    const id = await post(service, { scheduled_at: at })
    assert.equal((await readMessage(database, id))?.status, 'scheduled')
    const [why] = await database.query<{ why: string }>('select mail.why($1)', [id])
    assert.match(why?.why ?? '', /^Scheduled for \d{4}-\d\d-\d\d .*: it is processed and sent then\.$/)
    await untilStatus(database, id, 'sent')
    const [sent] = await database.query<{ early: boolean }>(
      'select sent_at < scheduled_at as early from mail.message where id = $1',
      [id],
    )
    assert.deepEqual(sent, { early: false })
    assert.deepEqual(await eventTypesOf(database, id), ['scheduled', 'queued', 'sent'])
    assert.deepEqual(sink.mails.map(sluiceIdOf), [id])
  })

  test('without a worker says who is missing, and goes when there is one', async (t) => {
    const database = await createTestDatabase(t)
    const sink = await startSmtpSink(t)
    const api = await startTestService(database, { SMTP_URL: sink.url, SLUICE_ROLES: 'api' })
    const id = await post(api, { scheduled_at: 'in 1 hour' })
    await database.query(
      "update mail.scheduled set due_at = now() - interval '1 s'; update mail.message set scheduled_at = now() - interval '1 s'",
    )
    const [why] = await database.query<{ why: string }>('select mail.why($1)', [id])
    assert.match(why?.why ?? '', /^Due since .*, but no worker is running\.$/)
    await startTestService(database, { SMTP_URL: sink.url, SLUICE_ROLES: 'worker' })
    await untilStatus(database, id, 'sent')
  })

  test('by the thousand in one moment disturbs neither other streams nor more urgent mail of that moment', async (t) => {
    const database = await createTestDatabase(t)
    const crowd = Promise.withResolvers<undefined>()
    // The crowd stays in the relay's hands until the others are through: if they waited for it, it would last for ever.
    const sink: SmtpSink = await startSmtpSink(t, {
      onMail: ({ to }) => (to[0]?.startsWith('user') ? crowd.promise : undefined),
    })
    const service = await startTestService(database, { SMTP_URL: sink.url, SLUICE_ROLES: 'api' })
    const ids = await insertMany(database, 3_000, { scheduled_at: 'in 1 hour', stream: 'marketing' })
    const timed = await post(service, { scheduled_at: 'in 1 hour', to: 'timed@example.net' })
    await eventually('all are on the schedule', async () => {
      const rows = await database.query<{ count: number }>('select count(*)::integer from mail.scheduled')
      return rows[0]?.count === 3_001
    })
    await database.query(
      "update mail.scheduled set due_at = now() - interval '1 minute' where stream = 'marketing'",
    )
    await database.query('update mail.scheduled set due_at = now() where message_id = $1', [timed])
    await startTestService(database, { SMTP_URL: sink.url, SLUICE_ROLES: 'worker' })
    const fresh = await post(service, { to: 'fresh@example.net' })
    await untilStatus(database, timed, 'sent')
    await untilStatus(database, fresh, 'sent')
    assert.equal(sink.mails.length, 2)
    crowd.resolve(undefined)
    await untilAll(database, 3_002, 'sent', 90_000)
    assert.deepEqual(new Set(sink.mails.map(sluiceIdOf)), new Set([...ids, timed, fresh]))
    assert.equal(sink.mails.length, 3_002)
  })
})
