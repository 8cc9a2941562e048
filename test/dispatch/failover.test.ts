/** Which provider of a route sends, and that one stream's trouble is not another's. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { insertMany, post, readMessage, untilAll, untilStatus } from '../support/messages.ts'
import { addProvider, stateOf, variableOf } from '../support/pacing.ts'
import { startAbsentRelay } from '../support/relay.ts'
import { startTestService } from '../support/service.ts'
import { type SmtpSink, startSmtpSink } from '../support/smtp-sink.ts'
import { duplicatesIn, sluiceIdOf } from '../support/sunk-mail.ts'

const FIRST = variableOf('first')
const SECOND = variableOf('second')

/** Two providers whose breakers look again after a moment (longer than an unreachable message is put off), and every stream goes to the first, else to the second. */
async function createRoute(t: TestContext): Promise<TestDatabase> {
  const database = await createTestDatabase(t)
  for (const name of ['first', 'second']) {
    await addProvider(database, name, { breaker_cooldown_s: 3, breaker_cooldown_cap_s: 3 })
  }
  await database.query("update mail.stream set route = '{first,second}'")
  return database
}

async function countBy(database: TestDatabase, provider: string): Promise<number> {
  const rows = await database.query('select from mail.message where provider = $1', [provider])
  return rows.length
}

const idsIn = (sinks: readonly SmtpSink[]) => sinks.flatMap(({ mails }) => mails.map(sluiceIdOf)).toSorted()

/** Both providers paused before any worker looks: a pause that comes later is noticed a moment later. */
async function pauseBoth(database: TestDatabase): Promise<void> {
  await database.query("select mail.pause('second'), mail.pause('first')")
}

/** Holds `count` messages in the queue of the first provider. */
async function holdInFirst(database: TestDatabase, count: number): Promise<string[]> {
  const ids = await insertMany(database, count)
  await untilAll(database, count, 'queued')
  assert.equal(await countBy(database, 'first'), count)
  return ids
}

test('with the first provider down the second sends, waiting mail included; when it returns, mail goes there again', async (t) => {
  const database = await createRoute(t)
  const [one, two] = [await startSmtpSink(t), await startSmtpSink(t)]
  const relay = await startAbsentRelay(t, one)
  const service = await startTestService(database, { [FIRST]: relay.url, [SECOND]: two.url })
  const ids = await insertMany(database, 200)
  await untilAll(database, 200, 'sent')
  assert.equal(two.mails.length, 200)
  assert.equal(await countBy(database, 'second'), 200)
  const [row] = await database.query<{ most: number }>(
    'select max(attempts)::integer as most from mail.message',
  )
  assert.equal(row?.most, 1)

  await relay.appear()
  await eventually('mail goes to the first again', async () => {
    const id = await post(service)
    ids.push(id)
    await untilStatus(database, id, 'sent')
    return (await readMessage(database, id))?.provider === 'first'
  })
  await eventually('its breaker is closed', async () => {
    const id = await post(service)
    ids.push(id)
    await untilStatus(database, id, 'sent')
    return (await stateOf(database, 'first'))?.breaker === 'closed'
  })
  const last = await post(service)
  ids.push(last)
  await untilStatus(database, last, 'sent')
  assert.equal((await readMessage(database, last))?.provider, 'first')
  assert.deepEqual(idsIn([one, two]), ids.toSorted())
})

test('with both down mail waits and costs no attempt, and goes out once when one is back', async (t) => {
  const database = await createRoute(t)
  const sink = await startSmtpSink(t)
  const [one, two] = [await startAbsentRelay(t, sink), await startAbsentRelay(t, sink)]
  await startTestService(database, { [FIRST]: one.url, [SECOND]: two.url })
  const ids = await insertMany(database, 50)
  await eventually('both breakers have opened', async () => {
    const rows = await database.query(
      "select distinct provider from mail.provider_event where type = 'breaker_opened'",
    )
    return rows.length === 2
  })
  const states = await database.query<{ status: string; attempts: number }>(
    "select distinct status, attempts from mail.message where status <> 'sending'",
  )
  for (const { status, attempts } of states) {
    assert.ok(['queued', 'deferred', 'accepted'].includes(status), status)
    assert.equal(attempts, 0)
  }
  await two.appear()
  await untilAll(database, 50, 'sent')
  assert.equal(await countBy(database, 'second'), 50)
  assert.deepEqual(idsIn([sink]), ids.toSorted())
})

test('while the first is paused its waiting mail goes to the second, and new mail to the first when it is resumed', async (t) => {
  const database = await createRoute(t)
  const [one, two] = [await startSmtpSink(t), await startSmtpSink(t)]
  await pauseBoth(database)
  const service = await startTestService(database, { [FIRST]: one.url, [SECOND]: two.url })
  const ids = await holdInFirst(database, 60)
  await database.query("select mail.resume('second')")
  await untilAll(database, 60, 'sent')
  assert.deepEqual(idsIn([two]), ids.toSorted())
  assert.equal(await countBy(database, 'second'), 60)
  await database.query("select mail.resume('first')")
  await eventually('the first sends again', async () => {
    const id = await post(service)
    await untilStatus(database, id, 'sent')
    return (await readMessage(database, id))?.provider === 'first'
  })
  assert.deepEqual(duplicatesIn([...one.mails, ...two.mails]), [])
})

test('mail that waits for a provider which is taken off the route goes out by the others', async (t) => {
  const database = await createRoute(t)
  const [one, two] = [await startSmtpSink(t), await startSmtpSink(t)]
  await pauseBoth(database)
  await startTestService(database, { [FIRST]: one.url, [SECOND]: two.url })
  const ids = await holdInFirst(database, 60)
  // In one commit: well again, but not on the route any more.
  await database.query(
    `with route as (update mail.stream set route = '{second}')
     update mail.provider set paused_at = null, paused_by = null`,
  )
  await untilAll(database, 60, 'sent')
  assert.deepEqual(idsIn([two]), ids.toSorted())
  assert.equal(one.mails.length, 0)
})

test('a stream whose sends hang takes none of the slots of another, and not more than its own', async (t) => {
  const database = await createRoute(t)
  await database.query("update mail.stream set slots = 3 where name = 'marketing'")
  const released = Promise.withResolvers<undefined>()
  let hanging = 0
  const sink = await startSmtpSink(t, {
    onMail: ({ to }) => {
      if (!to[0]?.startsWith('hang')) return undefined
      hanging += 1
      return released.promise
    },
  })
  const service = await startTestService(database, { [FIRST]: sink.url, [SECOND]: sink.url })
  const stuck: string[] = []
  for (let each = 0; each < 10; each += 1) {
    stuck.push(await post(service, { stream: 'marketing', to: `hang${each}@example.net` }))
  }
  await eventually('all its slots hang', async () => hanging === 3)
  const ids = await insertMany(database, 200)
  await sink.waitForMails(200)
  assert.equal(hanging, 3)
  const [row] = await database.query<{ sending: number }>(
    "select count(*)::integer as sending from mail.message where stream = 'marketing' and status = 'sending'",
  )
  assert.equal(row?.sending, 3)
  released.resolve(undefined)
  await untilAll(database, 210, 'sent')
  assert.deepEqual(idsIn([sink]), [...ids, ...stuck].toSorted())
})
