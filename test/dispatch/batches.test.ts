/** Providers that take many messages in one request get them so when several wait. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { insertMany, post, untilAll, untilStatus } from '../support/messages.ts'
import { addBucket, addProvider, variableOf } from '../support/pacing.ts'
import { STAND_IN_KEY, type StandInProvider } from '../support/provider-rules.ts'
import { type StandInOptions, startStandIn } from '../support/provider-stand-ins.ts'
import { startTestService } from '../support/service.ts'

const SENDER = { from: 'shop@shop.test' }
const COUNT = 300
const PROVIDERS = [
  { provider: 'postmark', requests: 1 },
  { provider: 'resend', requests: 3 },
] as const

/** The provider paused, and `COUNT` messages waiting for it. */
async function holdBack(t: TestContext, provider: StandInProvider, options: StandInOptions = {}) {
  const database = await createTestDatabase(t)
  const standIn = await startStandIn(t, provider, options)
  await addProvider(database, 'bulk', { transport: provider, base_url: standIn.url })
  await database.query("update mail.stream set route = '{bulk}'")
  await database.query("select mail.pause('bulk')")
  await startTestService(database, { [variableOf('bulk')]: STAND_IN_KEY })
  await insertMany(database, COUNT, SENDER)
  await untilAll(database, COUNT, 'queued')
  return { database, standIn }
}

async function idsOf({ query }: TestDatabase): Promise<string[]> {
  const rows = await query<{ id: string }>(
    "select provider_message_id as id from mail.message where status = 'sent' and provider_message_id is not null",
  )
  return rows.map(({ id }) => id)
}

for (const { provider, requests } of PROVIDERS) {
  test(`${provider}: 300 waiting messages leave in ${requests} request${requests === 1 ? '' : 's'}, and each keeps the provider's id of it`, async (t) => {
    const { database, standIn } = await holdBack(t, provider)
    await database.query("select mail.resume('bulk')")
    await untilAll(database, COUNT, 'sent')
    assert.equal(standIn.requests.length, requests)
    assert.ok(standIn.requests.every(({ path }) => /batch/i.test(path)))
    assert.equal(new Set(await idsOf(database)).size, COUNT)
  })

  test(`${provider}: one bad message among 300 is the only one that dies`, async (t) => {
    const { database, standIn } = await holdBack(t, provider)
    // A line break in its subject, which no door lets through.
    const [bad] = await database.query<{ id: string }>(
      `update mail.message_content set message = (message::jsonb || '{"subject": "a\\nb"}')::json
       where id = (select id from mail.message order by id offset 150 limit 1) returning id`,
    )
    await database.query("select mail.resume('bulk')")
    await eventually('all are settled', async () => {
      const rows = await database.query("select from mail.message where status not in ('sent', 'dead')")
      return rows.length === 0
    })
    const dead = await database.query<{ id: string }>("select id from mail.message where status = 'dead'")
    assert.deepEqual(
      dead.map(({ id }) => id),
      [bad?.id],
    )
    assert.equal(new Set(await idsOf(database)).size, COUNT - 1)
    assert.ok(standIn.requests.length <= requests + 1)
  })
}

test('a bucket that counts requests is asked for one token a batch', async (t) => {
  const { database, standIn } = await holdBack(t, 'resend')
  await addBucket(database, 'bulk', { quota: 9, window_s: 86_400, burst: 2, reserve: 0, counts: 'requests' })
  await database.query("select mail.resume('bulk')")
  await standIn.waitForRequests(2)
  await eventually('two batches are sent', async () => (await idsOf(database)).length >= 101)
  await eventually('a dispatcher was refused more', async () => {
    const rows = await database.query('select from mail.bucket where tokens < 1')
    return rows.length === 1
  })
  assert.equal(standIn.requests.length, 2)
  await database.query('delete from mail.bucket')
  await untilAll(database, COUNT, 'sent')
  assert.ok(standIn.requests.length <= 5, `${standIn.requests.length} requests`)
})

test('a 429 with Retry-After costs no attempt, is not repeated at once, and nothing else goes meanwhile', async (t) => {
  for (const retryAfter of [() => '2', () => new Date(Date.now() + 3_000).toUTCString()]) {
    const times: number[] = []
    const { database } = await holdBack(t, 'resend', {
      onRequest: (_, count) => {
        times.push(Date.now())
        return count === 1
          ? {
              status: 429,
              headers: { 'retry-after': retryAfter() },
              body: { name: 'rate_limit_exceeded', message: 'Too many' },
            }
          : undefined
      },
    })
    // One request at a time: others under way when the answer comes are not the question here.
    await database.query('update mail.stream set slots = 1')
    await database.query("select mail.resume('bulk')")
    await untilAll(database, COUNT, 'sent')
    const [row] = await database.query<{ most: number }>(
      'select max(attempts)::integer as most from mail.message',
    )
    assert.equal(row?.most, 1)
    const [first = 0, second = 0] = times
    assert.ok(second - first >= 1_900, `asked again after ${second - first} ms`)
    const events = await database.query("select from mail.provider_event where type = 'blocked'")
    assert.equal(events.length, 1)
  }
})

test('with little left by its own word urgent mail goes and other mail waits for the reset', async (t) => {
  const database = await createTestDatabase(t)
  const standIn = await startStandIn(t, 'sendgrid', {
    onRequest: (_, count) =>
      count === 1
        ? {
            status: 202,
            headers: { 'x-message-id': 'one', 'x-ratelimit-remaining': '3', 'x-ratelimit-reset': '6' },
          }
        : undefined,
  })
  await addProvider(database, 'bulk', { transport: 'sendgrid', base_url: standIn.url })
  // With a limit of its own it is asked about before each claim.
  await addBucket(database, 'bulk', { quota: 1_000 })
  await database.query("update mail.stream set route = '{bulk}'")
  const service = await startTestService(database, { [variableOf('bulk')]: STAND_IN_KEY })
  await untilStatus(database, await post(service, SENDER), 'sent')
  await eventually('the workers know what remains', async () => {
    const rows = await database.query('select from mail.provider_state where remaining = 3')
    return rows.length === 1
  })
  const newsletter = await post(service, { ...SENDER, stream: 'marketing' })
  const reset = await post(service, {
    ...SENDER,
    stream: 'transactional',
    priority: 0,
  })
  await untilStatus(database, reset, 'sent')
  await eventually('the newsletter is held back for the reason', async () => {
    const [row] = await database.query<{ why: string }>('select mail.why($1)', [newsletter])
    return /only 3 requests remain, which are left to urgent streams/.test(row?.why ?? '')
  })
  await untilStatus(database, newsletter, 'sent')
  const [order] = await database.query<{ later: boolean }>(
    `select n.sent_at - r.sent_at > interval '1 s' as later
     from mail.message n, mail.message r where n.id = $1 and r.id = $2`,
    [newsletter, reset],
  )
  assert.equal(order?.later, true)
})
