/** Rows that change while workers run: they are noticed without a restart. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { insertMany, post, readMessage, untilAll, untilStatus } from '../support/messages.ts'
import { addBucket, addProvider, variableOf } from '../support/pacing.ts'
import { STAND_IN_KEY } from '../support/provider-rules.ts'
import { startStandIn } from '../support/provider-stand-ins.ts'
import { startTestService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'

/** Well below the minute for which a dispatcher without tokens may be told to wait: it has to look again before that. */
const BEFORE_TOLD_MS = 25_000

/** A sender that the stand-ins know. */
const SENDER = { from: 'shop@shop.test' }

async function useOnly({ query }: TestDatabase, provider: string): Promise<void> {
  await query('update mail.stream set route = array[$1]', [provider])
}

test('another address and other credentials of a provider are used for the next mail', async (t) => {
  const database = await createTestDatabase(t)
  const [one, two] = [await startStandIn(t, 'postmark'), await startStandIn(t, 'postmark')]
  const relay = await startSmtpSink(t)
  await addProvider(database, 'pm', { transport: 'postmark', base_url: one.url })
  await useOnly(database, 'pm')
  const service = await startTestService(database, {
    [variableOf('pm')]: STAND_IN_KEY,
    RELAY_URL: relay.url,
  })
  await untilStatus(database, await post(service, SENDER), 'sent')
  assert.equal(one.requests.length, 1)
  await database.query('update mail.provider set base_url = $1', [two.url])
  await eventually('the new address is used', async () => {
    await untilStatus(database, await post(service, SENDER), 'sent')
    return two.requests.length > 0
  })
  await database.query(
    "update mail.provider set transport = 'smtp', base_url = null, credentials_env = 'RELAY_URL'",
  )
  await eventually('the relay is used', async () => {
    await untilStatus(database, await post(service, SENDER), 'sent')
    return relay.mails.length > 0
  })
})

test('a bucket that comes slows a provider down, and when it goes the rest flows', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  await addProvider(database, 'relay')
  await useOnly(database, 'relay')
  await addBucket(database, 'relay', { quota: 20, window_s: 86_400, burst: 8, reserve: 0 })
  await startTestService(database, { [variableOf('relay')]: sink.url })
  await insertMany(database, 40)
  await sink.waitForMails(8)
  await eventually('a dispatcher found no tokens', async () => {
    const rows = await database.query('select from mail.bucket where tokens < 1 and refilled_at is not null')
    return rows.length === 1
  })
  assert.equal(sink.mails.length, 8)
  await database.query('update mail.bucket set burst = 12, tokens = 12')
  await eventually('the larger burst is used', async () => sink.mails.length === 20, BEFORE_TOLD_MS)
  await database.query('delete from mail.bucket')
  await eventually('the rest flows', async () => sink.mails.length === 40, BEFORE_TOLD_MS)
})

test('more slots of a stream are used at once', async (t) => {
  const database = await createTestDatabase(t)
  await database.query('update mail.stream set slots = 2')
  const released = Promise.withResolvers<undefined>()
  let hanging = 0
  const sink = await startSmtpSink(t, {
    onMail: () => {
      hanging += 1
      return released.promise
    },
  })
  await startTestService(database, { SMTP_URL: sink.url })
  await insertMany(database, 20)
  await eventually('two hang', async () => hanging === 2)
  await database.query('update mail.stream set slots = 6')
  await eventually('six hang', async () => hanging === 6)
  released.resolve(undefined)
  await untilAll(database, 20, 'sent')
})

test('a provider and a stream that are new carry mail without a restart', async (t) => {
  const database = await createTestDatabase(t)
  const [usual, other] = [await startSmtpSink(t), await startSmtpSink(t)]
  const service = await startTestService(database, {
    SMTP_URL: usual.url,
    [variableOf('other')]: other.url,
  })
  await untilStatus(database, await post(service), 'sent')
  await addProvider(database, 'other')
  await database.query("insert into mail.stream (name, priority, route) values ('news', 7, '{other}')")
  await eventually(
    'the stream is known',
    async () => (await database.query("select from pgboss.queue where name = 'process.news'")).length === 1,
  )
  const [row] = await database.query<{ id: string }>(
    `select mail.send('{"from":"shop@example.com","to":"ann@example.net","subject":"News","text":"Hi"}', stream => 'news') as id`,
  )
  const sent = await untilStatus(database, row?.id ?? '', 'sent')
  assert.equal(sent.provider, 'other')
  assert.equal(other.mails.length, 1)
})

for (const what of ['default', 'transactional']) {
  test(`mail.pause of ${what === 'default' ? 'a provider' : 'a stream'} stops its mail, and mail.resume lets it go on`, async (t) => {
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
    const service = await startTestService(database, { SMTP_URL: sink.url })
    await insertMany(database, 700)
    await sink.waitForMails(20)
    await database.query('select mail.pause($1)', [what])
    const pausedAt = Date.now()
    await eventually('nothing is sent for a while', async () => {
      const rows = await database.query("select from mail.message where status in ('sending', 'accepted')")
      return rows.length === 0 && Date.now() - Math.max(...arrivals, pausedAt) > 1_500
    })
    assert.ok(sink.mails.length < 700, 'there was no mail left to hold back')
    const id = await post(service)
    await untilStatus(database, id, 'queued')
    const before = sink.mails.length
    // Enough for the rest to be gone soon.
    await database.query('update mail.stream set slots = 50')
    await database.query('select mail.resume($1)', [what])
    await eventually('mail goes out again', async () => sink.mails.length > before)
    await untilAll(database, 701, 'sent')
    assert.equal((await readMessage(database, id))?.status, 'sent')
  })
}
