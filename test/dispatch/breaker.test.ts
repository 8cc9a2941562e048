/** The breaker: what opens it, that all workers share it, and how it closes again. */
import assert from 'node:assert/strict'
import { before, type TestContext, test } from 'node:test'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { insertMany, untilAll } from '../support/messages.ts'
import { addProvider, note, providerEventsOf, stateOf, take, variableOf } from '../support/pacing.ts'
import { startAbsentRelay } from '../support/relay.ts'
import { startTestService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'
import { duplicatesIn, sluiceIdOf } from '../support/sunk-mail.ts'

let database: TestDatabase
before(async (t) => {
  database = await createTestDatabase(t as TestContext)
})

const breakerOf = async (provider: string) => (await stateOf(database, provider))?.breaker ?? 'closed'

async function typesOf(provider: string): Promise<string[]> {
  return (await providerEventsOf(database, provider)).map(({ type }) => type)
}

/** As if the time until the breaker does something by itself were over. */
async function letTimePass(provider: string): Promise<void> {
  await database.query(
    "update mail.provider_state set breaker_until = clock_timestamp() - interval '1 ms' where provider = $1",
    [provider],
  )
}

async function openIt(provider: string): Promise<void> {
  await note(database, provider, { faults: 5 })
  assert.equal(await breakerOf(provider), 'open')
}

test('five faults in a row open it, however few requests there were; then nothing is granted, not even urgent', async () => {
  await addProvider(database, 'run')
  await note(database, 'run', { faults: 4 })
  assert.equal(await breakerOf('run'), 'closed')
  await note(database, 'run', { faults: 1 })
  assert.equal(await breakerOf('run'), 'open')
  const grant = await take(database, 'run', 1, 0)
  assert.equal(grant.granted, 0)
  assert.match(
    grant.reason ?? '',
    /^its breaker is open: 5 faults in a row, the latest: connect_failed refused$/,
  )
  assert.ok((grant.wait_ms ?? 0) > 3_000 && (grant.wait_ms ?? 0) <= 5_000)
  assert.deepEqual(await providerEventsOf(database, 'run'), [
    {
      type: 'breaker_opened',
      reason: '5 faults in a row, the latest: connect_failed refused; for 5 s',
    },
  ])
})

test('a success in between starts the row anew', async () => {
  await addProvider(database, 'mixed', { breaker_volume: 1_000 })
  for (let each = 0; each < 4; each += 1)
    await note(database, 'mixed', { faults: 4 }).then(() => note(database, 'mixed', { good: 1 }))
  assert.equal(await breakerOf('mixed'), 'closed')
})

test('a twentieth of the requests of a minute open it, and below that or the least volume nothing does', async () => {
  await addProvider(database, 'share', { breaker_run: 1_000, breaker_volume: 40 })
  await note(database, 'share', { good: 37, faults: 2 })
  assert.equal(await breakerOf('share'), 'closed')
  await note(database, 'share', { good: 40, faults: 1 })
  assert.equal(await breakerOf('share'), 'closed')
  await note(database, 'share', { faults: 1 })
  // 4 of 81 are less than a twentieth; 5 of 82 are not.
  assert.equal(await breakerOf('share'), 'closed')
  await note(database, 'share', { faults: 1 })
  assert.equal(await breakerOf('share'), 'open')
  assert.match(
    (await providerEventsOf(database, 'share'))[0]?.reason ?? '',
    /^5 of 82 requests failed within 60 s/,
  )
})

test('what is older than a minute counts no more', async () => {
  await addProvider(database, 'old', { breaker_run: 1_000, breaker_volume: 10 })
  await note(database, 'old', { good: 8, faults: 1 })
  await database.query("update mail.provider_window set second = second - 61 where provider = 'old'")
  await note(database, 'old', { faults: 1, good: 8 })
  assert.equal(await breakerOf('old'), 'closed')
  await note(database, 'old', { faults: 1 })
  assert.equal(await breakerOf('old'), 'open')
})

test('it is one for all workers', async () => {
  await addProvider(database, 'both')
  await note(database, 'both', { faults: 3, worker: 1 })
  await note(database, 'both', { faults: 2, worker: 2 })
  assert.equal(await breakerOf('both'), 'open')
})

test('after the cooldown three probes go through over all workers; three successes close it', async () => {
  await addProvider(database, 'probed')
  await openIt('probed')
  await letTimePass('probed')
  const grants = await Promise.all([1, 2, 3, 4].map(() => take(database, 'probed', 2)))
  assert.equal(
    grants.reduce((sum, { granted }) => sum + granted, 0),
    3,
  )
  const late = await take(database, 'probed', 2)
  assert.equal(late.granted, 0)
  assert.match(late.reason ?? '', /half-open/)
  await note(database, 'probed', { good: 2 })
  assert.equal(await breakerOf('probed'), 'half_open')
  await note(database, 'probed', { good: 1, worker: 2 })
  assert.equal(await breakerOf('probed'), 'closed')
  assert.equal((await take(database, 'probed', 50)).granted, 50)
  assert.deepEqual(await typesOf('probed'), ['breaker_opened', 'breaker_half_open', 'breaker_closed'])
  for (const { reason } of await providerEventsOf(database, 'probed')) assert.notEqual(reason, '')
})

test('the cooldown doubles with each failed return up to its cap, once each, and begins anew after a closing', async () => {
  await addProvider(database, 'doubling', { breaker_cooldown_s: 2, breaker_cooldown_cap_s: 7 })
  await openIt('doubling')
  const cooldowns = [(await stateOf(database, 'doubling'))?.cooldown_s]
  for (let each = 0; each < 3; each += 1) {
    await letTimePass('doubling')
    assert.equal((await take(database, 'doubling', 3)).granted, 3)
    // All three fail, and it is one failed return.
    await note(database, 'doubling', { faults: 3 })
    assert.equal(await breakerOf('doubling'), 'open')
    cooldowns.push((await stateOf(database, 'doubling'))?.cooldown_s)
  }
  assert.deepEqual(cooldowns, [2, 4, 7, 7])
  await letTimePass('doubling')
  await take(database, 'doubling', 3)
  await note(database, 'doubling', { good: 3 })
  assert.equal(await breakerOf('doubling'), 'closed')
  await openIt('doubling')
  assert.equal((await stateOf(database, 'doubling'))?.cooldown_s, 2)
})

test('probes that never report are given up, and others go', async () => {
  await addProvider(database, 'silent')
  await openIt('silent')
  await letTimePass('silent')
  assert.equal((await take(database, 'silent', 10)).granted, 3)
  assert.equal((await take(database, 'silent', 10)).granted, 0)
  await letTimePass('silent')
  assert.equal((await take(database, 'silent', 10)).granted, 3)
})

test('tokens of a probe that found no mail go to another one', async () => {
  await addProvider(database, 'idle')
  await openIt('idle')
  await letTimePass('idle')
  assert.equal((await take(database, 'idle', 3)).granted, 3)
  await database.query("select mail.return_tokens('idle', 2)")
  assert.equal((await take(database, 'idle', 3)).granted, 2)
})

test('a provider that takes batches is probed with single messages, as each request reports once', async () => {
  await addProvider(database, 'batched')
  await openIt('batched')
  await letTimePass('batched')
  for (let each = 0; each < 3; each += 1)
    assert.equal((await take(database, 'batched', 500, 5, 500)).granted, 1)
  assert.equal((await take(database, 'batched', 500, 5, 500)).granted, 0)
  await note(database, 'batched', { good: 3 })
  assert.equal(await breakerOf('batched'), 'closed')
})

test('it can be closed by hand, and once is enough', async () => {
  await addProvider(database, 'manual')
  await openIt('manual')
  await database.query("select mail.close_breaker('manual'), mail.close_breaker('manual')")
  assert.equal((await take(database, 'manual', 9)).granted, 9)
  assert.deepEqual((await providerEventsOf(database, 'manual')).at(-1), {
    type: 'breaker_closed',
    reason: 'closed by hand',
  })
  assert.equal((await providerEventsOf(database, 'manual')).length, 2)
})

test('refused recipients and messages say nothing about the provider', async (t) => {
  const own = await createTestDatabase(t)
  await addProvider(own, 'relay')
  await own.query("update mail.stream set route = '{relay}'")
  const sink = await startSmtpSink(t, {
    onRecipient: (address) =>
      address === 'user1@example.net' ? undefined : { code: 550, text: '5.1.1 No such user' },
    onMail: () => ({ code: 554, text: '5.6.0 Not this content' }),
  })
  await startTestService(own, { [variableOf('relay')]: sink.url })
  await insertMany(own, 30)
  await untilAll(own, 30, 'dead')
  await eventually('the requests were counted', async () => {
    const [row] = await own.query<{ requests: number; faults: number }>(
      'select sum(requests)::integer as requests, sum(faults)::integer as faults from mail.provider_window',
    )
    return row?.requests === 30 && row.faults === 0
  })
  assert.deepEqual(await providerEventsOf(own, 'relay'), [])
})

test('two workers find a relay gone, stop trying, and find it again: each message arrives once', async (t) => {
  const own = await createTestDatabase(t)
  await addProvider(own, 'relay', { breaker_cooldown_s: 1, breaker_cooldown_cap_s: 1 })
  await own.query("update mail.stream set route = '{relay}'")
  const sink = await startSmtpSink(t)
  const relay = await startAbsentRelay(t, sink)
  const environment = { [variableOf('relay')]: relay.url, SLUICE_ROLES: 'worker' }
  await startTestService(own, environment)
  await startTestService(own, environment)
  const ids = await insertMany(own, 100)
  await eventually('a return has failed', async () => {
    const reasons = (await providerEventsOf(own, 'relay')).map(({ reason }) => reason)
    return reasons.some((reason) => reason.startsWith('a probe failed'))
  })
  await relay.appear()
  await untilAll(own, 100, 'sent')
  assert.deepEqual(sink.mails.map(sluiceIdOf).toSorted(), ids.toSorted())
  assert.deepEqual(duplicatesIn(sink.mails), [])
  await eventually('it is closed', async () => (await stateOf(own, 'relay'))?.breaker === 'closed')
  const types = (await providerEventsOf(own, 'relay')).map(({ type }) => type)
  assert.equal(types[0], 'breaker_opened')
  assert.equal(types.at(-1), 'breaker_closed')
  // Each opening is followed by one try, whichever worker made it.
  assert.ok(
    types.every((type, index) => type !== types[index + 1]),
    types.join(),
  )
  // Of a hundred messages, the first in flight and then three a try.
  const [row] = await own.query<{ tries: number }>(
    "select count(*)::integer as tries from mail.event where type = 'unreachable'",
  )
  const openings = types.filter((type) => type === 'breaker_opened').length
  assert.ok((row?.tries ?? 0) <= 2 * 20 * 3 + 3 * openings, `${row?.tries} tries in ${openings} openings`)
})
