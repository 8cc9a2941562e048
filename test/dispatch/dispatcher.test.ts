import assert from 'node:assert/strict'
import { test } from 'node:test'
import { openPool } from '../../src/db/pool.ts'
import { inTransaction } from '../../src/db/transaction.ts'
import * as queries from '../../src/dispatch/queries.ts'
import { createLog } from '../../src/log.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import {
  deadLetterOf,
  eventTypesOf,
  insertMany,
  post,
  readMessage,
  untilAll,
  untilStatus,
} from '../support/messages.ts'
import { startAbsentRelay } from '../support/relay.ts'
import { startTestService } from '../support/service.ts'
import { POLITE, startRawSmtp, startSmtpSink } from '../support/smtp-sink.ts'
import { duplicatesIn, headerOf, sluiceIdOf } from '../support/sunk-mail.ts'

/** Retries soon: the shortest backoff a stream can have. */
async function hurry({ query }: TestDatabase): Promise<void> {
  await query('update mail.stream set backoff_base_s = 1, backoff_factor = 1, backoff_cap_s = 1')
}

test('with the relay away mail waits without using up attempts, and goes out by itself when it comes', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  const relay = await startAbsentRelay(t, sink)
  await startTestService(database, { SMTP_URL: relay.url })
  const ids = await insertMany(database, 5)
  await eventually('the relay was tried for one of them twice', async () => {
    const rows = await database.query("select from mail.event where type = 'unreachable'")
    return rows.length > 5
  })
  const waiting = await database.query<{ status: string; attempts: number }>(
    "select status, attempts from mail.message where status <> 'sending'",
  )
  for (const { status, attempts } of waiting) assert.deepEqual([status, attempts], ['deferred', 0])
  await relay.appear()
  const mails = await sink.waitForMails(5)
  assert.deepEqual(mails.map(sluiceIdOf).toSorted(), ids.toSorted())
  await untilAll(database, 5, 'sent')
  const [row] = await database.query<{ most: number }>(
    'select max(attempts)::integer as most from mail.message',
  )
  assert.equal(row?.most, 1)
})

test('a refusal for good is a dead letter with the reply, at once', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t, { onMail: () => ({ code: 554, text: '5.7.1 Not this content' }) })
  const service = await startTestService(database, { SMTP_URL: sink.url })
  const id = await post(service)
  const letter = await deadLetterOf(database, id)
  assert.equal(letter.stage, 'dispatch')
  assert.equal(letter.code, 'policy_refused')
  assert.match(letter.reason, /Not this content/)
  assert.equal((await readMessage(database, id))?.attempts, 1)
})

test('a temporary refusal is tried again after the backoff, as the same mail, until attempts run out', async (t) => {
  const database = await createTestDatabase(t)
  const seen = new Map<string, { messageId: string | undefined; at: number }[]>()
  const sink = await startSmtpSink(t, {
    onMail: (mail) => {
      const tries = seen.get(sluiceIdOf(mail)) ?? []
      tries.push({ messageId: headerOf(mail, 'Message-ID'), at: Date.now() })
      seen.set(sluiceIdOf(mail), tries)
      const isHopeless = mail.to.includes('never@example.net')
      return isHopeless || tries.length === 1 ? { code: 451, text: '4.3.0 Later' } : undefined
    },
  })
  await hurry(database)
  const service = await startTestService(database, { SMTP_URL: sink.url })
  const id = await post(service)
  const hopeless = await post(service, { to: 'never@example.net' })
  await sink.waitForMails(1)
  assert.equal((await untilStatus(database, id, 'sent')).attempts, 2)
  assert.deepEqual(await eventTypesOf(database, id), ['accepted', 'queued', 'deferred', 'sent'])
  const letter = await deadLetterOf(database, hopeless)
  assert.deepEqual([letter.stage, letter.code], ['dispatch', 'smtp_deferred'])
  for (const [each, count] of [
    [id, 2],
    [hopeless, 3],
  ] as const) {
    const tries = seen.get(each) ?? []
    assert.equal(tries.length, count)
    assert.equal(new Set(tries.map(({ messageId }) => messageId)).size, 1)
    assert.equal(tries[0]?.messageId, `<${each}@example.com>`)
    // Half of the base is the least that is waited.
    const gaps = tries.slice(1).map(({ at }, index) => at - (tries[index]?.at ?? 0))
    assert.ok(Math.min(...gaps) >= 450, `tried again after ${gaps} ms`)
  }
})

test('only the recipient who was told "not now" is tried again; the other gets one copy', async (t) => {
  const database = await createTestDatabase(t)
  let refusals = 0
  const sink = await startSmtpSink(t, {
    onRecipient: (address) => {
      if (address !== 'bob@example.net' || refusals > 0) return undefined
      refusals += 1
      return { code: 450, text: '4.2.1 Not now' }
    },
  })
  await hurry(database)
  const service = await startTestService(database, { SMTP_URL: sink.url })
  const id = await post(service, { to: ['ann@example.net', 'bob@example.net'], cc: 'cleo@example.net' })
  await sink.waitForMails(2)
  await untilStatus(database, id, 'sent')
  assert.deepEqual(
    sink.mails.map(({ to }) => to),
    [['ann@example.net', 'cleo@example.net'], ['bob@example.net']],
  )
  // Everyone sees the same mail, whoever got this copy.
  const shown = sink.mails.map((mail) => [headerOf(mail, 'To'), headerOf(mail, 'Cc')])
  assert.deepEqual(shown[0], shown[1])
  assert.deepEqual(await eventTypesOf(database, id), [
    'accepted',
    'queued',
    'recipient_sent',
    'recipient_sent',
    'deferred',
    'sent',
  ])
})

test('when no answer follows the content, one stream holds the message and the other sends it again', async (t) => {
  const database = await createTestDatabase(t)
  // The first two connections break off after the content; then a server that takes everything.
  const dialogue = [
    ...POLITE.greeting,
    ...POLITE.mail,
    ...POLITE.recipient,
    ...POLITE.data,
    ...POLITE.content,
  ]
  const relay = await startRawSmtp(t, (connection) =>
    connection <= 2
      ? [...dialogue, (socket) => socket.destroy()]
      : [...dialogue, '250 2.0.0 Taken\r\n', { expect: /QUIT\r\n/ }, '221 2.0.0 Bye\r\n'],
  )
  await hurry(database)
  const service = await startTestService(database, { SMTP_URL: relay.url })
  const held = await post(service, { stream: 'marketing' })
  assert.equal((await untilStatus(database, held, 'unknown')).last_error, 'connection_lost')
  const again = await post(service, { stream: 'transactional' })
  assert.equal((await untilStatus(database, again, 'sent')).attempts, 2)
  assert.deepEqual(await eventTypesOf(database, again), ['accepted', 'queued', 'unknown', 'sent'])
  assert.equal((await readMessage(database, held))?.status, 'unknown')
  const copies = (id: string) => relay.received().split(`X-Sluice-Id: ${id}\r\n`).length - 1
  assert.deepEqual([copies(held), copies(again)], [1, 2])
  const jobs = await database.query('select from pgboss.job where id = $1', [held])
  assert.equal(jobs.length, 0)
})

/** A gate that holds back the mails that `isHeld` picks. */
function createGate(isHeld: (to: string) => boolean) {
  const opened = Promise.withResolvers<void>()
  const held: string[] = []
  let most = 0
  let now = 0
  const pass = async (to: string): Promise<undefined> => {
    if (!isHeld(to)) return
    held.push(to)
    now += 1
    most = Math.max(most, now)
    await opened.promise
    now -= 1
  }
  return { pass, held, open: () => opened.resolve(), most: () => most }
}

test('a stream sends no more at once than it has slots, and one that hangs leaves the others theirs', async (t) => {
  const database = await createTestDatabase(t)
  const gate = createGate((to) => to.startsWith('user'))
  const sink = await startSmtpSink(t, { onMail: (mail) => gate.pass(mail.to[0] ?? '') })
  // The last stream alone may use more connections than all others together.
  await database.query("update mail.stream set slots = 4 where name = 'transactional'")
  await database.query("update mail.stream set slots = 2 where name <> 'transactional'")
  const service = await startTestService(database, { SMTP_URL: sink.url })
  await database.query("update mail.stream set slots = 12 where name = 'marketing'")
  await insertMany(database, 40, { stream: 'marketing' })
  await eventually('the new number of slots is used', async () => gate.held.length === 12)
  for (let n = 0; n < 3; n += 1) await post(service, { to: `urgent${n}@example.net` })
  const mails = await sink.waitForMails(3)
  assert.ok(mails.every(({ to }) => to[0]?.startsWith('urgent')))
  assert.equal(gate.most(), 12)
  gate.open()
  const [sum] = await database.query<{ count: number }>('select count(*)::integer as count from mail.message')
  await untilAll(database, sum?.count ?? 0, 'sent')
  assert.equal(gate.most(), 12)
  assert.deepEqual(duplicatesIn(sink.mails), [])
})

test('sends that hang do not keep the free slots beside them from being used', async (t) => {
  const database = await createTestDatabase(t)
  const gate = createGate((to) => to.startsWith('user'))
  const sink = await startSmtpSink(t, { onMail: (mail) => gate.pass(mail.to[0] ?? '') })
  await database.query('update mail.stream set slots = 10')
  const service = await startTestService(database, { SMTP_URL: sink.url })
  await insertMany(database, 9)
  await eventually('nine of ten slots hang', async () => gate.held.length === 9)
  for (let n = 0; n < 3; n += 1) await post(service, { to: `quick${n}@example.net` })
  await sink.waitForMails(3)
  gate.open()
  await untilAll(database, 12, 'sent')
})

test('nothing is claimed ahead that a person would have to settle if the worker died', async (t) => {
  const database = await createTestDatabase(t)
  let accepted = 0
  const freed = Promise.withResolvers<undefined>()
  const sink = await startSmtpSink(t, {
    onMail: async () => {
      accepted += 1
      return accepted > 200 ? freed.promise : undefined
    },
  })
  await startTestService(database, { SMTP_URL: sink.url })
  await insertMany(database, 400, { stream: 'marketing' })
  await eventually('all slots hang', async () => accepted >= 220)
  const [claimed] = await database.query<{ count: number }>(
    "select count(*)::integer from mail.message where status = 'sending'",
  )
  assert.equal(claimed?.count, 20)
  freed.resolve(undefined)
  await untilAll(database, 400, 'sent')
})

test('within a stream the urgent overtakes what was there before it', async (t) => {
  const database = await createTestDatabase(t)
  const gate = createGate((to) => to === 'user1@example.net')
  const sink = await startSmtpSink(t, { onMail: (mail) => gate.pass(mail.to[0] ?? '') })
  await database.query("update mail.stream set slots = 1 where name = 'transactional'")
  const service = await startTestService(database, { SMTP_URL: sink.url })
  await insertMany(database, 1)
  await eventually('the only slot is taken', async () => gate.held.length === 1)
  await insertMany(database, 20)
  await eventually('the others are queued', async () => {
    const rows = await database.query("select from mail.message where status = 'queued'")
    return rows.length === 20
  })
  const urgent = await post(service, { to: 'now@example.net', priority: 0 })
  await untilStatus(database, urgent, 'queued')
  gate.open()
  const mails = await sink.waitForMails(22)
  assert.equal(mails.map(sluiceIdOf).indexOf(urgent), 1)
})

test('streams and providers that appear while it runs are served, and one that cannot be opened harms nobody', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  const other = await startSmtpSink(t)
  const environment = { SMTP_URL: sink.url, OTHER_URL: other.url, WRONG_URL: 'smtp://:nonsense?tls=maybe' }
  const service = await startTestService(database, environment)
  await database.query(
    `insert into mail.provider (name, transport, credentials_env) values
       ('a-wrong', 'smtp', 'WRONG_URL'), ('b-unset', 'smtp', 'UNSET_URL'), ('other', 'smtp', 'OTHER_URL')`,
  )
  await database.query("insert into mail.stream (name, route) values ('letters', '{other,default}')")
  const id = await eventually('the new stream is known', async () => {
    const response = await service.request('/emails', {
      body: {
        from: 'shop@example.com',
        to: 'ann@example.net',
        subject: 'x',
        text: 'x',
        stream: 'letters',
      },
    })
    return response.status === 200 && ((await response.json()) as { id: string }).id
  })
  const [mail] = await other.waitForMails(1)
  assert.equal(mail === undefined ? '' : sluiceIdOf(mail), id)
  assert.equal((await untilStatus(database, id, 'sent')).provider, 'other')
  assert.equal(sink.mails.length, 0)
})

test('a service over a provider whose variable cannot be read starts, and sends through the others', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  await database.query(
    "insert into mail.provider (name, transport, credentials_env) values ('a-wrong', 'smtp', 'WRONG_URL')",
  )
  const service = await startTestService(database, { SMTP_URL: sink.url, WRONG_URL: 'ftp://example.com' })
  await post(service)
  await sink.waitForMails(1)
})

test('an outcome that comes too late changes nothing: another attempt, another worker, a settled message', async (t) => {
  const database = await createTestDatabase(t)
  const { db, close } = openPool({
    url: database.url,
    maxConnections: 1,
    role: undefined,
    log: createLog('silent'),
  })
  database.beforeDrop(close)
  const gate = createGate(() => true)
  const sink = await startSmtpSink(t, { onMail: (mail) => gate.pass(mail.to[0] ?? '') })
  const service = await startTestService(database, { SMTP_URL: sink.url })
  const id = await post(service)
  await eventually('it is being sent', async () => gate.held.length === 1)
  const { worker, attempts } = await untilStatus(database, id, 'sending')
  const [claim] = await database.query<{ claimed_at: string }>(
    'select claimed_at::text from mail.message where id = $1',
    [id],
  )
  const settlement: queries.Settlement = {
    id,
    attempt: attempts,
    claimedAt: claim?.claimed_at ?? '',
    status: 'dead',
    countsAsAttempt: true,
    providerMessageId: null,
    providerRef: null,
    code: 'smtp_refused',
    reason: 'late news',
    delayMs: null,
    recipientDomain: null,
    isPartlySettled: false,
    events: [{ type: 'dead' }],
  }
  const settleAs = (each: queries.Settlement, by: number) =>
    inTransaction(db, (trx) => queries.storeSettlements(trx, [each], by))
  const before = await readMessage(database, id)
  // The same attempt, claimed another time: one that cost none comes again under its number.
  assert.equal(
    (await settleAs({ ...settlement, claimedAt: '2026-01-01 00:00:00+00' }, worker ?? 0)).length,
    0,
  )
  assert.equal((await settleAs(settlement, (worker ?? 0) + 1)).length, 0)
  assert.deepEqual(await readMessage(database, id), before)
  gate.open()
  await untilStatus(database, id, 'sent')
  assert.equal((await settleAs(settlement, worker ?? 0)).length, 0)
  assert.equal((await readMessage(database, id))?.status, 'sent')
  assert.deepEqual(await eventTypesOf(database, id), ['accepted', 'queued', 'sent'])
  assert.equal((await database.query('select from mail.dead_letter')).length, 0)
})

test('an outcome that the database refuses, even without its words, holds up no other', async (t) => {
  const database = await createTestDatabase(t)
  await database.query(`
    create function refuse() returns trigger language plpgsql as $$ begin raise check_violation; end $$;
    create trigger refuse before update on mail.message for each row
      when (new.status = 'sent' and new.priority = 9) execute function refuse()`)
  const sink = await startSmtpSink(t)
  const service = await startTestService(database, { SMTP_URL: sink.url })
  const refused = await post(service, { priority: 9 })
  await sink.waitForMails(1)
  const others = await insertMany(database, 50)
  for (const id of others) await untilStatus(database, id, 'sent')
  assert.equal((await readMessage(database, refused))?.status, 'sending')
  assert.equal(sink.mails.length, 51)
})

test('a worker that was taken for dead can claim nothing under its old number', async (t) => {
  const database = await createTestDatabase(t)
  const { db, close } = openPool({
    url: database.url,
    maxConnections: 1,
    role: undefined,
    log: createLog('silent'),
  })
  database.beforeDrop(close)
  const claimAs = (worker: number) =>
    inTransaction(db, (trx) => queries.claimMessages(trx, [], worker, 'default'))
  await assert.rejects(claimAs(4711), { name: 'NotRegisteredError' })
  const [row] = await database.query<{ number: number }>(
    "insert into mail.worker (name) values ('here') returning number",
  )
  assert.deepEqual(await claimAs(row?.number ?? 0), [])
})
