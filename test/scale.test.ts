import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createTestDatabase, type TestDatabase } from './support/database.ts'
import { startTestService } from './support/service.ts'

type Situation = {
  readonly name: string
  /** Messages that wait in stream transactional (to be sent within 5 s) and marketing (within 30 s). */
  readonly waiting?: { readonly transactional?: number; readonly marketing?: number }
  /** Accepted in the last minute, in stream transactional. */
  readonly accepted?: number
  readonly change?: string
  readonly workers: number
  readonly limitedBy: string
  readonly reason: RegExp
}

const SITUATIONS: readonly Situation[] = [
  { name: 'nothing waits', workers: 1, limitedBy: 'nothing', reason: /Nothing waits/ },
  {
    name: 'a burst that has to be gone in five seconds',
    waiting: { transactional: 5_000 },
    workers: 4,
    limitedBy: 'workers',
    reason: /5000 wait, to be sent within 5 s/,
  },
  {
    name: 'a steady flow that one worker cannot keep up with',
    accepted: 36_000,
    workers: 3,
    limitedBy: 'workers',
    reason: /600.0 a second come/,
  },
  {
    name: 'a newsletter has more time',
    waiting: { marketing: 30_000 },
    change: "update mail.stream set priority = 8 where name = 'transactional'",
    workers: 4,
    limitedBy: 'nothing',
    reason: /Nothing waits/,
  },
  {
    name: 'a stream with a time of its own',
    waiting: { transactional: 5_000 },
    change: "update mail.stream set send_within_s = 20 where name = 'transactional'",
    workers: 1,
    limitedBy: 'workers',
    reason: /within 20 s/,
  },
  {
    name: 'a provider that takes no more',
    waiting: { transactional: 50_000 },
    change:
      "insert into mail.bucket (provider, name, quota, utilization) values ('default', 'per_second', 100, 1)",
    workers: 1,
    limitedBy: 'provider',
    reason: /let 100.0 a second through/,
  },
  {
    name: 'a provider that takes no more, and a second one on the route',
    waiting: { transactional: 50_000 },
    change: `insert into mail.bucket (provider, name, quota, utilization) values ('default', 'per_second', 100, 1);
      insert into mail.provider (name, transport, credentials_env) values ('second', 'smtp', 'SECOND_URL');
      update mail.stream set route = '{default,second}' where name = 'transactional'`,
    workers: 10,
    limitedBy: 'workers',
    reason: /50000 wait/,
  },
  {
    name: 'an open breaker',
    waiting: { transactional: 50_000 },
    change: `insert into mail.provider_state (provider) values ('default') on conflict do nothing;
      select mail.open_breaker('default', 'for the test')`,
    workers: 1,
    limitedBy: 'provider',
    reason: /No provider of its route may send now/,
  },
  {
    name: 'a paused stream',
    waiting: { transactional: 50_000 },
    change: "select mail.pause('transactional', 'stream')",
    workers: 1,
    limitedBy: 'nothing',
    reason: /paused/,
  },
  {
    name: 'a stream whose send window is closed',
    waiting: { transactional: 50_000 },
    change: `insert into mail.send_window (stream, opens, closes, time_zone)
      select 'transactional', opens::time, (opens + interval '1 minute')::time, 'UTC'
      from (values (date_trunc('minute', now() at time zone 'utc') + interval '12 hours')) later (opens)`,
    workers: 1,
    limitedBy: 'nothing',
    reason: /send window opens at/,
  },
  {
    name: 'a provider so slow that the slots are the limit',
    accepted: 600,
    change: `insert into mail.tally_time (bucket_at, process, kind, stream, provider, bucket, count, seconds)
      values (date_bin('10 seconds', clock_timestamp(), 'epoch') - interval '20 seconds', gen_random_uuid(),
        'provider_latency', 'transactional', 'default', 8, 100, 400)`,
    // 10 a second of 2 to 5 s each: about 35 at once, with 20 slots a worker.
    workers: 2,
    limitedBy: 'workers',
    reason: /10.0 a second come/,
  },
  {
    name: 'a provider as slow that takes ten messages a request',
    accepted: 600,
    change: `insert into mail.tally_time (bucket_at, process, kind, stream, provider, bucket, count, seconds)
      values (date_bin('10 seconds', clock_timestamp(), 'epoch') - interval '20 seconds', gen_random_uuid(),
        'provider_latency', 'transactional', 'default', 8, 100, 400);
      insert into mail.tally (bucket_at, process, kind, stream, provider, count)
      select date_bin('10 seconds', clock_timestamp(), 'epoch') - interval '20 seconds', gen_random_uuid(), kind, 'transactional', 'default', count
      from (values ('request', 60), ('sent', 600)) t (kind, count)`,
    workers: 1,
    limitedBy: 'workers',
    reason: /10.0 a second come/,
  },
  {
    name: 'a provider whose quota is one of requests, of ten messages each',
    waiting: { transactional: 50_000 },
    change: `insert into mail.bucket (provider, name, quota, utilization, counts) values ('default', 'requests', 5, 1, 'requests');
      insert into mail.tally (bucket_at, process, kind, stream, provider, count)
      select date_bin('10 seconds', clock_timestamp(), 'epoch') - interval '20 seconds', gen_random_uuid(), kind, 'transactional', 'default', count
      from (values ('request', 60), ('sent', 600)) t (kind, count)`,
    workers: 1,
    limitedBy: 'provider',
    reason: /let 50.0 a second through/,
  },
  {
    name: 'bounds that are set',
    waiting: { transactional: 50_000 },
    change: 'update mail.scale_setting set min_workers = 2, max_workers = 6',
    workers: 6,
    limitedBy: 'workers',
    reason: /50000 wait/,
  },
]

async function arrange(
  { query }: TestDatabase,
  { waiting = {}, accepted, change }: Situation,
): Promise<void> {
  await query(
    "insert into mail.provider (name, transport, credentials_env) values ('default', 'smtp', 'SMTP_URL')",
  )
  for (const [stream, messages] of Object.entries(waiting)) {
    await query(
      `insert into mail.depth (stage, stream, provider, ready, deferred, in_flight, measured_at, counted_ready, counted_net, counted_from)
       values ('dispatch', $1, 'default', $2, 700, 0, now(), 0, 0, now())`,
      [stream, messages],
    )
  }
  if (accepted !== undefined) {
    await query(
      `insert into mail.tally (bucket_at, process, kind, stream, provider, count)
       values (date_bin('10 seconds', clock_timestamp(), 'epoch') - interval '20 seconds', gen_random_uuid(), 'accepted', 'transactional', '', $1)`,
      [accepted],
    )
  }
  if (change !== undefined) for (const statement of change.split(';')) await query(statement)
}

for (const situation of SITUATIONS) {
  test(`workers that are needed: ${situation.name}`, async (t) => {
    const database = await createTestDatabase(t)
    await arrange(database, situation)
    const [scale] = await database.query<{ workers: number; reason: string }>('select * from mail.scale()')
    const [stream] = await database.query<{ limited_by: string; reason: string }>(
      "select limited_by, reason from mail.scale_streams() where stream = 'transactional'",
    )
    assert.equal(scale?.workers, situation.workers, scale?.reason)
    assert.equal(stream?.limited_by, situation.limitedBy)
    assert.match(stream?.reason ?? '', situation.reason)
  })
}

test('urgent streams take the room of a provider first', async (t) => {
  const database = await createTestDatabase(t)
  await arrange(database, {
    ...{ name: '', workers: 0, limitedBy: '', reason: /x/ },
    waiting: { transactional: 400, marketing: 6_000 },
    change:
      "insert into mail.bucket (provider, name, quota, utilization) values ('default', 'per_second', 100, 1)",
  })
  const rows = await database.query(
    "select stream, allowed_per_s as allowed, limited_by from mail.scale_streams() where stream <> 'alerts' order by priority",
  )
  assert.deepEqual(rows, [
    { stream: 'transactional', allowed: 80, limited_by: 'workers' },
    { stream: 'marketing', allowed: 20, limited_by: 'provider' },
  ])
})

test('GET /scale says the number as a JSON path that an autoscaler reads', async (t) => {
  const database = await createTestDatabase(t)
  const service = await startTestService(database)
  const response = await service.request('/scale')
  const scale = (await response.json()) as { workers: number; current_workers: number; streams: object[] }
  assert.equal(response.status, 200)
  assert.deepEqual([scale.workers, scale.current_workers], [1, 1])
  assert.equal(scale.streams.length, 3)
})
