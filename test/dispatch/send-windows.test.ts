/** Mail of a stream with send windows: it waits while they are closed, and goes by itself when one opens. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { deadLetterOf, insertMany, post, readMessage, untilAll, untilStatus } from '../support/messages.ts'
import { startTestService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'

const MARKETING = { stream: 'marketing' }
const WHEN = String.raw`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\S*`

/** One window, from so long after now to so long after now. */
async function useWindow({ query }: TestDatabase, stream: string, from: string, to: string): Promise<void> {
  await query(
    `with gone as (delete from mail.send_window where stream = $1)
     insert into mail.send_window (stream, opens, closes)
     select $1, date_trunc('minute', (now() + $2::interval) at time zone 'UTC')::time,
       date_trunc('minute', (now() + $3::interval) at time zone 'UTC')::time`,
    [stream, from, to],
  )
}

async function why({ query }: TestDatabase, id: string): Promise<string> {
  const [row] = await query<{ why: string }>('select mail.why($1) as why', [id])
  return row?.why ?? ''
}

async function queueOf({ query }: TestDatabase, stream: string) {
  return query(
    "select ready::integer, deferred::integer, oldest_age from mail.queue where stage = 'dispatch' and stream = $1",
    [stream],
  )
}

test('outside its window mail is accepted and waits, and other streams go; a change lets it go', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  await useWindow(database, 'marketing', '2 hours', '3 hours')
  const service = await startTestService(database, { SMTP_URL: sink.url })
  const id = await post(service, MARKETING)
  await untilStatus(database, id, 'queued')
  const later = new Date(Date.now() + 1_800_000).toISOString()
  const scheduled = await post(service, { ...MARKETING, scheduled_at: later })
  await untilStatus(database, scheduled, 'scheduled')
  await untilStatus(database, await post(service), 'sent')
  assert.match(
    await why(database, id),
    new RegExp(`^Waiting for the send window of stream marketing: it opens at ${WHEN}\\.$`),
  )
  assert.match(
    await why(database, scheduled),
    new RegExp(
      `^Scheduled for ${WHEN}: it is processed then, and sent when the send window of stream marketing opens at ${WHEN}\\.$`,
    ),
  )
  assert.deepEqual(await queueOf(database, 'marketing'), [{ ready: 0, deferred: 1, oldest_age: null }])
  assert.deepEqual([(await readMessage(database, id))?.attempts, sink.mails.length], [0, 1])
  await database.query("update mail.message set scheduled_at = now() where status = 'scheduled'")
  await database.query('update mail.scheduled set due_at = now()')
  await untilStatus(database, scheduled, 'queued')
  await database.query("update mail.send_window set opens = '00:00', closes = '24:00'")
  for (const each of [id, scheduled]) await untilStatus(database, each, 'sent')
})

test('when its window opens mail goes by itself', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  // A minute would be long to wait.
  await database.query(
    `alter table mail.send_window drop constraint a_window_opens_at_a_whole_minute_before_24_00;
     insert into mail.send_window (stream, opens, closes)
     select 'marketing', ((now() + interval '4 seconds') at time zone 'UTC')::time,
       date_trunc('minute', (now() + interval '1 hour') at time zone 'UTC')::time`,
  )
  const [window] = await database.query<{ opens_at: Date }>(
    "select mail.window_opens('marketing', now()) as opens_at",
  )
  assert.ok(window)
  const service = await startTestService(database, { SMTP_URL: sink.url })
  const id = await post(service, MARKETING)
  await untilStatus(database, id, 'sent')
  const [row] = await database.query<{ claimed_at: Date }>('select claimed_at from mail.message')
  const lateMs = (row?.claimed_at.getTime() ?? 0) - window.opens_at.getTime()
  assert.ok(lateMs >= 0, `it was claimed ${-lateMs} ms before the opening`)
})

test('hours in which the window was closed are no delay: neither of what was sent nor of what still waits', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  await useWindow(database, 'marketing', '2 hours', '3 hours')
  const service = await startTestService(database, { SMTP_URL: sink.url })
  const id = await post(service, MARKETING)
  await untilStatus(database, id, 'queued')
  await database.query("update mail.message set accepted_at = accepted_at - interval '6 hours'")
  await useWindow(database, 'marketing', '-1 minute', '1 hour')
  await untilStatus(database, id, 'sent')
  const tookS = await eventually('the time to send is measured', async () => {
    const [row] = await database.query<{ seconds: number | null }>(
      "select sum(seconds) as seconds from mail.tally_time where kind = 'time_to_send'",
    )
    return row?.seconds ?? undefined
  })
  assert.ok(tookS < 1_800, `${tookS} s`)
  await database.query("select mail.pause('marketing', 'stream')")
  await database.query(
    `insert into pgboss.job (name, id, priority, created_on)
     select 'dispatch.default.marketing', gen_random_uuid(), 4, now() - interval '6 hours'`,
  )
  const [queue] = await queueOf(database, 'marketing')
  const [oldest] = await database.query<{ is_recent: boolean }>(
    "select bool_and(oldest_at > now() - interval '30 minutes') as is_recent from mail.oldest_waiting() where stream = 'marketing'",
  )
  const [seen] = await database.query<{ is_recent: boolean }>(
    "select oldest_age < interval '30 minutes' as is_recent from mail.queue where stream = 'marketing' and ready > 0",
  )
  assert.deepEqual([queue?.ready, oldest?.is_recent, seen?.is_recent], [1, true, true])
})

test('when its window closes in the middle of a batch, claims stop', async (t) => {
  const database = await createTestDatabase(t)
  const arrivals: number[] = []
  const sink = await startSmtpSink(t, {
    onMail: async () => {
      await new Promise((resolve) => setTimeout(resolve, 40))
      arrivals.push(Date.now())
      return undefined
    },
  })
  await database.query('update mail.stream set slots = 5')
  await useWindow(database, 'transactional', '-1 hour', '1 hour')
  await startTestService(database, { SMTP_URL: sink.url })
  await insertMany(database, 700)
  await sink.waitForMails(20)
  await useWindow(database, 'transactional', '2 hours', '3 hours')
  const closedAt = Date.now()
  await eventually('nothing is sent for a while', async () => {
    const rows = await database.query("select from mail.message where status in ('sending', 'accepted')")
    return rows.length === 0 && Date.now() - Math.max(...arrivals, closedAt) > 1_500
  })
  assert.ok(sink.mails.length < 700, 'there was no mail left to hold back')
  await database.query('delete from mail.send_window')
  await untilAll(database, 700, 'sent')
})

test('the hours in which its window was closed do not make mail too old', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t, { onMail: () => ({ code: 451, text: '4.3.0 Later' }) })
  await database.query(
    `update mail.stream set backoff_base_s = 1, backoff_factor = 1, backoff_cap_s = 1, attempts = 1000, max_age_s = 3600
     where name = 'marketing'`,
  )
  await database.query("select mail.pause('marketing')")
  const service = await startTestService(database, { SMTP_URL: sink.url })
  const id = await post(service, MARKETING)
  await untilStatus(database, id, 'queued')
  await database.query("update mail.message set queued_at = now() - interval '20 hours'")
  await useWindow(database, 'marketing', '-2 minutes', '1 hour')
  await database.query("select mail.resume('marketing')")
  await eventually('it was tried twice', async () => {
    const rows = await database.query("select from mail.event where type = 'deferred'")
    return rows.length >= 2
  })
  await useWindow(database, 'marketing', '2 hours', '3 hours')
  await eventually('a retry waits for the window as well', async () => {
    const row = await readMessage(database, id)
    return (
      row?.status === 'deferred' && (await why(database, id)).includes('the send window of stream marketing')
    )
  })
  await database.query('delete from mail.send_window')
  const letter = await deadLetterOf(database, id)
  assert.equal(letter.code, 'expired')
})
