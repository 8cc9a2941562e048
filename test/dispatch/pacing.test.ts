/** The token buckets in SQL: what is granted, to whom, and that it is never more than the quota. */
import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import { Client } from 'pg'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { addBucket, addProvider, note, stateOf, take } from '../support/pacing.ts'
import { mostInWindow } from '../support/windows.ts'

/** So long a window that nothing comes back while a test runs. */
const DAY_S = 86_400
const URGENT = 3

let database: TestDatabase
before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
})

/** Lets a bucket believe that so much time has passed since it was last filled. */
async function age(provider: string, ms: number): Promise<void> {
  await database.query(
    "update mail.bucket set refilled_at = refilled_at - $2 * interval '1 millisecond' where provider = $1",
    [provider, ms],
  )
}

async function connectOwn(): Promise<Client> {
  const client = new Client({ connectionString: database.url })
  await client.connect()
  database.beforeDrop(() => client.end())
  return client
}

test('a provider without buckets grants everything', async () => {
  await addProvider(database, 'free')
  assert.deepEqual(await take(database, 'free', 10_000), { granted: 10_000, wait_ms: null, reason: null })
  assert.equal((await take(database, 'free', 0)).granted, 0)
  assert.equal((await take(database, 'free', -5)).granted, 0)
})

test('a provider that does not exist is an error that names it', async () => {
  await assert.rejects(take(database, 'nobody', 1), { code: '42704', message: 'there is no provider nobody' })
})

test('a bucket fills with its share of the quota, and what gathers leaves room below the quota', async () => {
  await addProvider(database, 'levels')
  await addBucket(database, 'levels', { name: 'a', quota: 100, window_s: 10, utilization: 0.5 })
  await addBucket(database, 'levels', { name: 'b', quota: 3 })
  await addBucket(database, 'levels', { name: 'c', quota: 100, burst: 40, reserve: 5 })
  const rows = await database.query(
    "select name, rate_per_s, capacity, kept_for_urgent from mail.bucket_level where provider = 'levels' order by name",
  )
  assert.deepEqual(rows, [
    { name: 'a', rate_per_s: 5, capacity: 25, kept_for_urgent: 2.5 },
    { name: 'b', rate_per_s: 2.55, capacity: 1, kept_for_urgent: 0 },
    { name: 'c', rate_per_s: 85, capacity: 40, kept_for_urgent: 5 },
  ])
})

test('of several windows the least grant counts, and each of them pays for it', async () => {
  await addProvider(database, 'several')
  await addBucket(database, 'several', { name: 'day', quota: 1_000, window_s: DAY_S, burst: 5, reserve: 0 })
  await addBucket(database, 'several', {
    name: 'second',
    quota: 1_000,
    window_s: DAY_S,
    burst: 50,
    reserve: 0,
  })
  const first = await take(database, 'several', 20)
  assert.equal(first.granted, 5)
  assert.equal(first.reason, 'no tokens left in bucket day')
  assert.equal(first.wait_ms, 60_000)
  const rows = await database.query<{ name: string; tokens: number }>(
    "select name, tokens from mail.bucket where provider = 'several' order by name",
  )
  assert.deepEqual(rows, [
    { name: 'day', tokens: 0 },
    { name: 'second', tokens: 45 },
  ])
  assert.equal((await take(database, 'several', 1)).granted, 0)
})

test('after the time that was named there are tokens again, and not half of it earlier', async () => {
  await addProvider(database, 'patient')
  await addBucket(database, 'patient', { quota: 10, window_s: 100, utilization: 0.5, burst: 4, reserve: 0 })
  assert.equal((await take(database, 'patient', 4)).granted, 4)
  const { granted, wait_ms: waitMs } = await take(database, 'patient', 4)
  assert.equal(granted, 0)
  // Two of four tokens, at one in twenty seconds.
  assert.ok(waitMs !== null && waitMs > 30_000 && waitMs <= 40_000, `${waitMs} ms`)
  await age('patient', waitMs / 2 - 8_000)
  assert.equal((await take(database, 'patient', 4)).granted, 0)
  await age('patient', waitMs / 2 + 8_000)
  assert.equal((await take(database, 'patient', 4)).granted, 2)
})

test('the reserve is left to urgent streams, and only that', async () => {
  await addProvider(database, 'kept')
  await addBucket(database, 'kept', { quota: 100, window_s: DAY_S, burst: 10, reserve: 4 })
  assert.equal((await take(database, 'kept', 10, 4)).granted, 6)
  assert.equal((await take(database, 'kept', 1, 4)).granted, 0)
  assert.equal((await take(database, 'kept', 3, URGENT)).granted, 3)
  assert.equal((await take(database, 'kept', 3, 0)).granted, 1)
})

test('a reserve above the burst still lets others send, one at a time', async () => {
  await addProvider(database, 'greedy')
  await addBucket(database, 'greedy', { quota: 100, window_s: DAY_S, burst: 5, reserve: 50 })
  assert.equal((await take(database, 'greedy', 10)).granted, 1)
  assert.equal((await take(database, 'greedy', 10)).granted, 0)
})

test('an urgent stream that found too little is next, until it has enough or asks no more', async () => {
  await addProvider(database, 'queue')
  await addBucket(database, 'queue', { quota: 100, window_s: DAY_S, burst: 8, reserve: 0 })
  assert.equal((await take(database, 'queue', 6)).granted, 6)
  assert.equal((await take(database, 'queue', 4, URGENT)).granted, 2)
  await database.query("update mail.bucket set tokens = 7 where provider = 'queue'")
  assert.equal((await take(database, 'queue', 4)).granted, 0)
  assert.equal((await take(database, 'queue', 2, URGENT)).granted, 2)
  assert.equal((await take(database, 'queue', 4)).granted, 4)
  assert.equal((await take(database, 'queue', 4, URGENT)).granted, 1)
  await database.query(
    "update mail.bucket set tokens = 7, urgent_until = clock_timestamp() where provider = 'queue'",
  )
  assert.equal((await take(database, 'queue', 4)).granted, 4)
})

test('urgent mail that always finds enough does not hold up the others', async () => {
  await addProvider(database, 'trickle')
  await addBucket(database, 'trickle', { quota: 100, window_s: DAY_S, burst: 7.5, reserve: 0 })
  // All that fits, though it asked for more.
  assert.equal((await take(database, 'trickle', 20, URGENT)).granted, 7)
  await database.query("update mail.bucket set tokens = 7 where provider = 'trickle'")
  assert.equal((await take(database, 'trickle', 1, URGENT)).granted, 1)
  assert.equal((await take(database, 'trickle', 20)).granted, 6)
})

test('a bucket of requests pays once for a whole batch, one of messages for each', async () => {
  await addProvider(database, 'batches')
  await addBucket(database, 'batches', {
    name: 'requests',
    quota: 9,
    window_s: DAY_S,
    burst: 3,
    counts: 'requests',
  })
  assert.equal((await take(database, 'batches', 250, 5, 100)).granted, 250)
  assert.equal((await take(database, 'batches', 1, 5, 100)).granted, 0)
  await database.query("select mail.return_tokens('batches', 199, 100)")
  assert.equal((await take(database, 'batches', 100, 5, 100)).granted, 100)
  await addBucket(database, 'batches', {
    name: 'messages',
    quota: 99,
    window_s: DAY_S,
    burst: 30,
    reserve: 0,
  })
  await database.query("update mail.bucket set tokens = 3 where provider = 'batches' and name = 'requests'")
  assert.equal((await take(database, 'batches', 500, 5, 100)).granted, 30)
  const rows = await database.query(
    "select name, tokens from mail.bucket where provider = 'batches' order by name",
  )
  assert.deepEqual(
    rows.map(({ name, tokens }) => [name, Math.round(tokens)]),
    [
      ['messages', 0],
      ['requests', 2],
    ],
  )
})

test('unused tokens are there again, but never more than can gather', async () => {
  await addProvider(database, 'unused')
  await addBucket(database, 'unused', { quota: 100, window_s: DAY_S, burst: 10, reserve: 0 })
  assert.equal((await take(database, 'unused', 10)).granted, 10)
  await database.query("select mail.return_tokens('unused', 4)")
  assert.equal((await take(database, 'unused', 10)).granted, 4)
  await database.query("select mail.return_tokens('unused', 1000)")
  assert.equal((await take(database, 'unused', 1_000)).granted, 10)
})

test('a provider that is paused, or asked us to wait, grants nothing', async () => {
  await addProvider(database, 'halted')
  await database.query("select mail.pause('halted')")
  const paused = await take(database, 'halted', 5, 0)
  assert.equal(paused.granted, 0)
  assert.equal(paused.wait_ms, 60_000)
  assert.match(paused.reason ?? '', /^paused by /)
  await database.query("select mail.resume('halted')")
  assert.equal((await take(database, 'halted', 5)).granted, 5)
  await database.query("select mail.block_provider('halted', 30000, '429 slow down')")
  const blocked = await take(database, 'halted', 5, 0)
  assert.equal(blocked.granted, 0)
  assert.ok((blocked.wait_ms ?? 0) > 25_000 && (blocked.wait_ms ?? 0) <= 30_000)
  assert.equal(blocked.reason, 'the provider asked to wait: 429 slow down')
})

test('asked to wait without a time, the pause doubles with each refusal and starts anew after a success', async () => {
  await addProvider(database, 'vague')
  const pauses: number[] = []
  const refuse = async () => {
    await database.query("select mail.block_provider('vague', null, 'throttled')")
    const [row] = await database.query<{ ms: number }>(
      "select extract(epoch from blocked_until - clock_timestamp())::float8 * 1000 as ms from mail.provider_state where provider = 'vague'",
    )
    pauses.push(Math.round((row?.ms ?? 0) / 1_000))
  }
  for (let each = 0; each < 3; each += 1) {
    await refuse()
    // Those under way at the same time are refused as well: one refusal.
    await refuse()
    await database.query(
      "update mail.provider_state set blocked_until = clock_timestamp() where provider = 'vague'",
    )
  }
  assert.deepEqual(pauses, [1, 1, 2, 2, 4, 4])
  await note(database, 'vague', { good: 1 })
  await refuse()
  assert.equal(pauses.at(-1), 1)
  const events = await database.query(
    "select from mail.provider_event where provider = 'vague' and type = 'blocked'",
  )
  assert.equal(events.length, 4)
})

test('less than the reserve left by its own word: urgent streams go on, others wait for the reset', async () => {
  await addProvider(database, 'nearly')
  await database.query("select mail.note_remaining('nearly', 99, 30000)")
  assert.equal((await take(database, 'nearly', 5, URGENT)).granted, 5)
  const other = await take(database, 'nearly', 5, 4)
  assert.equal(other.granted, 0)
  assert.match(other.reason ?? '', /only 99 requests remain/)
  await database.query("select mail.note_remaining('nearly', 100, 30000)")
  assert.equal((await take(database, 'nearly', 5, 4)).granted, 5)
  await database.query("select mail.note_remaining('nearly', 0, 0)")
  assert.equal((await take(database, 'nearly', 5, 4)).granted, 5)
})

test('many takers at once, some of whom give back: no window of any bucket sees more than its quota', async () => {
  await addProvider(database, 'shared')
  const buckets = [
    { name: 'a', quota: 40, window_s: 0.2, utilization: 0.9 },
    { name: 'b', quota: 150, window_s: 1, utilization: 0.95 },
    // Something is left of each: what is given back comes on top of what was refilled meanwhile.
    { name: 'c', quota: 7, window_s: 0.05, utilization: 0.7 },
  ]
  for (const bucket of buckets) await addBucket(database, 'shared', bucket)
  const used: number[] = []
  const taker = async () => {
    const client = await connectOwn()
    while (used.length < 500) {
      const want = 1 + Math.floor(Math.random() * 12)
      const priority = Math.random() < 0.3 ? 0 : 5
      // The moment of a grant, as the bucket has it.
      const results = (await client.query(
        `begin;
         select granted from mail.take_tokens('shared', ${want}, ${priority}::smallint);
         select extract(epoch from max(refilled_at))::float8 * 1000 as at_ms from mail.bucket where provider = 'shared';
         commit`,
      )) as unknown as { rows: { granted: number; at_ms: number }[] }[]
      const granted = results[1]?.rows[0]?.granted ?? 0
      const unused = Math.random() < 0.2 ? Math.floor(Math.random() * (granted + 1)) : 0
      if (unused > 0) await client.query("select mail.return_tokens('shared', $1)", [unused])
      const atMs = results[2]?.rows[0]?.at_ms ?? 0
      used.push(...Array<number>(granted - unused).fill(atMs))
    }
  }
  await Promise.all(Array.from({ length: 8 }, taker))
  for (const { name, quota, window_s: windowS } of buckets) {
    const most = mostInWindow(used, windowS * 1_000)
    assert.ok(most <= quota, `${most} in a window of ${name}, ${quota} are allowed`)
  }
})

test('over a long time the average is the set share of the quota', async () => {
  await addProvider(database, 'steady')
  // Room for a machine that is slow between two steps: what does not fit is rightly lost.
  await addBucket(database, 'steady', { quota: 100, burst: 60, reserve: 0 })
  const client = await connectOwn()
  const readClock = async () => {
    const { rows } = await client.query<{ ms: number }>(
      'select extract(epoch from clock_timestamp())::float8 * 1000 as ms',
    )
    return rows[0]?.ms ?? 0
  }
  await client.query("select mail.take_tokens('steady', 100)")
  const beganAt = await readClock()
  let granted = 0
  let skippedMs = 0
  for (let step = 0; step < 600; step += 1) {
    // Uneven, and shorter than it takes for the bucket to be full.
    const stepMs = 5 + (step % 7) * 3
    skippedMs += stepMs
    await client.query(
      "update mail.bucket set refilled_at = refilled_at - $1 * interval '1 millisecond' where provider = 'steady'",
      [stepMs],
    )
    const { rows } = await client.query<{ granted: number }>(
      "select granted from mail.take_tokens('steady', 100)",
    )
    granted += rows[0]?.granted ?? 0
  }
  const perS = granted / ((skippedMs + (await readClock()) - beganAt) / 1_000)
  assert.ok(Math.abs(perS - 85) <= 0.85, `${perS} a second, 85 are wanted`)
})

test('takers, givers and reports of results at once never wait for each other in a circle', async () => {
  await addProvider(database, 'crowd', { breaker_cooldown_s: 1, breaker_cooldown_cap_s: 1, breaker_run: 3 })
  for (const name of ['a', 'b', 'c']) await addBucket(database, 'crowd', { name, quota: 1_000 })
  const worker = async (_: unknown, number: number) => {
    const client = await connectOwn()
    for (let step = 0; step < 150; step += 1) {
      await client.query("select mail.take_tokens('crowd', 5)")
      await client.query("select mail.return_tokens('crowd', 2)")
      await client.query("select mail.note_results('crowd', $1, 2, $2, 'down')", [number, step % 2])
      if (step % 10 === 0) {
        await client.query(
          "update mail.provider_state set breaker_until = clock_timestamp() where provider = 'crowd'",
        )
      }
    }
  }
  await Promise.all(Array.from({ length: 6 }, worker))
  const events = await database.query<{ type: string }>(
    "select distinct type from mail.provider_event where provider = 'crowd' order by type",
  )
  // It went through what takes the most locks.
  assert.ok(events.some(({ type }) => type === 'breaker_opened'))
  assert.ok(events.some(({ type }) => type === 'breaker_half_open'))
})

test('a probe that got no token is not counted as under way', async () => {
  await addProvider(database, 'dry')
  await addBucket(database, 'dry', { quota: 10, window_s: DAY_S, burst: 2 })
  await take(database, 'dry', 2)
  await note(database, 'dry', { faults: 5 })
  await database.query(
    "update mail.provider_state set breaker_until = clock_timestamp() where provider = 'dry'",
  )
  assert.equal((await take(database, 'dry', 3)).granted, 0)
  const state = await stateOf(database, 'dry')
  assert.deepEqual([state?.breaker, state?.probes_out], ['half_open', 0])
})
