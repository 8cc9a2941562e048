/** SIGTERM: what is in flight is finished and settled, within the limit; the rest waits for the next process. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Client } from 'pg'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { OF_THIS_DATABASE } from '../support/lock-waits.ts'
import { insertMany, post, readMessage, untilAll } from '../support/messages.ts'
import { spawnService } from '../support/service.ts'
import { type SunkMail, startSmtpSink } from '../support/smtp-sink.ts'
import { sluiceIdOf } from '../support/sunk-mail.ts'

/** A process that never comes to the point must not hang the suite. */
const LIMIT = { timeout: 90_000 }
/** Below the 25 s of the default, and twenty times the limits that are set here. */
const BEFORE_DEFAULT_MS = 20_000

async function assertNothingHeld({ query }: TestDatabase): Promise<void> {
  assert.deepEqual(await query("select id from mail.message where status = 'sending'"), [])
  assert.deepEqual(await query('select * from mail.claim'), [])
  assert.deepEqual(await query('select * from mail.worker'), [])
  assert.deepEqual(await query("select id from pgboss.job where state = 'active'"), [])
}

test(
  'stopped in the middle of 500 messages it settles what it claimed, and the next process sends the rest',
  LIMIT,
  async (t) => {
    const database = await createTestDatabase(t)
    const sink = await startSmtpSink(t, {
      onMail: () => new Promise<undefined>((resolve) => setTimeout(() => resolve(undefined), 40)),
    })
    const first = await spawnService(t, database.url, { SMTP_URL: sink.url })
    const ids = await insertMany(database, 500)
    await sink.waitForMails(100)
    process.kill(first.pid, 'SIGTERM')
    assert.equal(await first.ended, 0)
    await assertNothingHeld(database)
    const sentByFirst = sink.mails.length
    assert.ok(sentByFirst < 500)
    const [counted] = await database.query<{ count: number }>(
      "select count(*)::integer as count from mail.message where status = 'sent'",
    )
    assert.equal(counted?.count, sentByFirst)

    const second = await spawnService(t, database.url, { SMTP_URL: sink.url })
    await untilAll(database, 500, 'sent')
    assert.deepEqual(sink.mails.map(sluiceIdOf).toSorted(), ids.toSorted())
    process.kill(second.pid, 'SIGTERM')
    assert.equal(await second.ended, 0)
  },
)

test(
  'a provider that hangs does not keep it from stopping: the limit cuts the sends off and settles them',
  LIMIT,
  async (t) => {
    const database = await createTestDatabase(t)
    const held: string[] = []
    const sink = await startSmtpSink(t, {
      onMail: (mail: SunkMail) => {
        held.push(sluiceIdOf(mail))
        return new Promise<undefined>(() => undefined)
      },
    })
    const service = await spawnService(t, database.url, {
      SMTP_URL: sink.url,
      SLUICE_STOP_TIMEOUT_MS: '1000',
    })
    const retried = await post(service, { stream: 'transactional' })
    const kept = await post(service, { stream: 'marketing' })
    await eventually('both are being sent', async () => held.length === 2)
    const askedAt = Date.now()
    process.kill(service.pid, 'SIGTERM')
    assert.equal(await service.ended, 0)
    assert.ok(Date.now() - askedAt < BEFORE_DEFAULT_MS, 'it went by its own limit')
    await assertNothingHeld(database)
    const rows = await Promise.all([retried, kept].map((id) => readMessage(database, id)))
    assert.deepEqual(
      rows.map((row) => [row?.status, row?.last_error, row?.attempts]),
      [
        ['deferred', 'aborted', 1],
        ['unknown', 'aborted', 1],
      ],
    )
  },
)

test(
  'sends that never got through to the provider cost no attempt when they are cut off',
  LIMIT,
  async (t) => {
    const database = await createTestDatabase(t)
    const reached = Promise.withResolvers<void>()
    const sink = await startSmtpSink(t, {
      onMail: () => {
        reached.resolve()
        return new Promise<undefined>(() => undefined)
      },
    })
    await database.query('update mail.stream set slots = 1')
    const service = await spawnService(t, database.url, { SMTP_URL: sink.url, SLUICE_STOP_TIMEOUT_MS: '0' })
    await insertMany(database, 3)
    await reached.promise
    process.kill(service.pid, 'SIGTERM')
    assert.equal(await service.ended, 0)
    await assertNothingHeld(database)
    const rows = await database.query<{ status: string; attempts: number }>(
      'select status, attempts from mail.message order by attempts',
    )
    assert.deepEqual(
      rows.map(({ attempts }) => attempts),
      [0, 0, 1],
    )
  },
)

test(
  'a database that hangs does not keep it from stopping: it says what did not end and exits with 1',
  LIMIT,
  async (t) => {
    const database = await createTestDatabase(t)
    const sink = await startSmtpSink(t)
    const service = await spawnService(t, database.url, { SMTP_URL: sink.url, SLUICE_STOP_TIMEOUT_MS: '500' })
    const blocker = new Client({ connectionString: database.url })
    await blocker.connect()
    database.beforeDrop(() => blocker.end())
    await blocker.query('begin; lock table mail.intake, mail.worker')
    await eventually('the service waits for the lock', async () => {
      const { rowCount } = await blocker.query(
        `select from pg_locks
         where not granted and relation = 'mail.intake'::regclass and ${OF_THIS_DATABASE}`,
      )
      return (rowCount ?? 0) > 0
    })
    const askedAt = Date.now()
    process.kill(service.pid, 'SIGTERM')
    const line = await service.logged('a part did not end in time')
    assert.equal(await service.ended, 1)
    assert.ok(Date.now() - askedAt < BEFORE_DEFAULT_MS, 'it went by its own limit')
    assert.ok(['intake', 'worker', 'upkeep'].includes(String(line.part)), String(line.part))
  },
)
