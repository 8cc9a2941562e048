/** Workers that die, hang or stop in the middle of their work: none of their mail is lost, and little is sent twice. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Client } from 'pg'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { insertMany, untilAll } from '../support/messages.ts'
import { type SpawnedService, spawnService, startTestService } from '../support/service.ts'
import { type SunkMail, startSmtpSink } from '../support/smtp-sink.ts'
import { copiesOf, duplicatesIn, headerOf, sluiceIdOf } from '../support/sunk-mail.ts'

/** A process that never comes to the point must not hang the suite. */
const LIMIT = { timeout: 90_000 }

/** A provider that stops answering after `count` mails, which it has all the same, until it is let go. */
function stallAfter(count: number) {
  const released = Promise.withResolvers<undefined>()
  const stalled: string[] = []
  let taken = 0
  return {
    onMail: (mail: SunkMail) => {
      taken += 1
      if (taken <= count) return undefined
      stalled.push(sluiceIdOf(mail))
      return released.promise
    },
    stalled,
    release: () => released.resolve(undefined),
  }
}

async function numberOf(worker: SpawnedService): Promise<number> {
  return Number((await worker.logged('worker registered')).worker)
}

async function recoveredIn({ query }: TestDatabase): Promise<{ id: string; worker: number }[]> {
  return query(
    `select message_id as id, (detail->>'worker')::integer as worker from mail.event
     where type = 'recovered' order by message_id`,
  )
}

test(
  'when a worker is killed in the middle of 1,000 messages another finishes them: none lost, only what it was sending repeated',
  LIMIT,
  async (t) => {
    const database = await createTestDatabase(t)
    const stall = stallAfter(200)
    const [doomedSink, otherSink] = [await startSmtpSink(t, stall), await startSmtpSink(t)]
    await startTestService(database, { SMTP_URL: doomedSink.url, SLUICE_ROLES: 'api' })
    const doomed = await spawnService(t, database.url, { SMTP_URL: doomedSink.url, SLUICE_ROLES: 'worker' })
    const ids = await insertMany(database, 1_000)
    await doomedSink.waitForMails(200)
    await eventually('all its slots are in the middle of a send', async () => stall.stalled.length === 20)

    const other = await spawnService(t, database.url, { SMTP_URL: otherSink.url, SLUICE_ROLES: 'worker' })
    await otherSink.waitForMails(1)
    process.kill(doomed.pid, 'SIGKILL')
    await doomed.ended
    await eventually('what it was sending moves again', async () => (await recoveredIn(database)).length > 0)
    stall.release()
    await untilAll(database, 1_000, 'sent')

    const mails = [...doomedSink.mails, ...otherSink.mails]
    const lost = ids.filter((id) => !copiesOf(mails).has(id))
    assert.deepEqual(lost, [])
    const recovered = await recoveredIn(database)
    // With what it was sending there may be what it had claimed ahead, and not begun: twice as many.
    const idsRecovered = new Set(recovered.map(({ id }) => id))
    assert.ok(stall.stalled.every((id) => idsRecovered.has(id)))
    assert.ok(idsRecovered.size <= 3 * stall.stalled.length, `${idsRecovered.size} were claimed`)
    const number = await numberOf(doomed)
    assert.ok(recovered.every(({ worker }) => worker === number))
    assert.deepEqual(duplicatesIn(mails).toSorted(), stall.stalled.toSorted())
    assert.deepEqual(duplicatesIn(otherSink.mails), [])
    const messageIds = new Set(mails.map((mail) => headerOf(mail, 'Message-ID')))
    assert.equal(messageIds.size, 1_000)
    assert.equal(other.process.exitCode, null)
  },
)

test(
  'a worker killed while it processes leaves its batches to others, and nothing is sent twice',
  LIMIT,
  async (t) => {
    const database = await createTestDatabase(t)
    const sink = await startSmtpSink(t)
    const doomed = await spawnService(t, database.url, { SMTP_URL: sink.url, SLUICE_ROLES: 'worker' })
    // Processing reads suppressions: it waits here, its jobs claimed.
    const release = await lockTable(database, 'mail.suppression')
    const ids = await insertMany(database, 300)
    await eventually('it holds processing jobs', async () => {
      return (await database.query('select from mail.claim')).length > 0
    })
    process.kill(doomed.pid, 'SIGKILL')
    await doomed.ended
    await release()
    await startTestService(database, { SMTP_URL: sink.url, SLUICE_ROLES: 'worker' })
    await untilAll(database, 300, 'sent')
    assert.deepEqual(sink.mails.map(sluiceIdOf).toSorted(), ids.toSorted())
    assert.deepEqual(await database.query('select from mail.claim'), [])
  },
)

async function lockTable(database: TestDatabase, table: string): Promise<() => Promise<void>> {
  const client = new Client({ connectionString: database.url })
  await client.connect()
  await client.query(`begin; lock table ${table} in access exclusive mode`)
  let ended: Promise<void> | undefined
  const release = () => {
    ended ??= client.end()
    return ended
  }
  database.beforeDrop(release)
  return release
}

test(
  'nobody takes the mail of a worker that is stopped for longer than the grace and then goes on',
  LIMIT,
  async (t) => {
    const database = await createTestDatabase(t)
    const stall = stallAfter(0)
    const [slowSink, otherSink] = [await startSmtpSink(t, stall), await startSmtpSink(t)]
    const slow = await spawnService(t, database.url, { SMTP_URL: slowSink.url, SLUICE_ROLES: 'worker' })
    const ids = await insertMany(database, 50)
    await eventually('all its slots are in the middle of a send', async () => stall.stalled.length === 20)
    process.kill(slow.pid, 'SIGSTOP')
    t.after(() => slow.process.kill('SIGCONT'))
    const other = await spawnService(t, database.url, { SMTP_URL: otherSink.url, SLUICE_ROLES: 'worker' })
    const otherNumber = await numberOf(other)
    // The other one beats every five seconds and looks every second: by then it has looked past the grace.
    await eventually('the grace is over', async () => {
      const rows = await database.query(
        "select from mail.worker where number = $1 and seen_at >= started_at + interval '4 s'",
        [otherNumber],
      )
      return rows.length === 1
    })
    const [held] = await database.query<{ count: number }>(
      "select count(*)::integer as count from mail.message where status = 'sending' and worker = $1",
      [await numberOf(slow)],
    )
    assert.equal(held?.count, 20)
    process.kill(slow.pid, 'SIGCONT')
    stall.release()
    await untilAll(database, 50, 'sent')
    const mails = [...slowSink.mails, ...otherSink.mails]
    assert.deepEqual(mails.map(sluiceIdOf).toSorted(), ids.toSorted())
    assert.deepEqual(await recoveredIn(database), [])
  },
)

test('two workers on one database share the work, and no message goes out twice', LIMIT, async (t) => {
  const database = await createTestDatabase(t)
  const slowly = {
    onMail: () => new Promise<undefined>((resolve) => setTimeout(() => resolve(undefined), 60)),
  }
  const sinks = [await startSmtpSink(t, slowly), await startSmtpSink(t, slowly)]
  for (const { url } of sinks) await startTestService(database, { SMTP_URL: url, SLUICE_ROLES: 'worker' })
  const ids = await insertMany(database, 600)
  await untilAll(database, 600, 'sent')
  const mails = sinks.flatMap((sink) => [...sink.mails])
  assert.deepEqual(mails.map(sluiceIdOf).toSorted(), ids.toSorted())
  const shares = sinks.map((sink) => sink.mails.length)
  assert.ok(Math.min(...shares) > 0, `the shares are ${shares}`)
})
