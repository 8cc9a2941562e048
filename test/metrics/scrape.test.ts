/** A whole service, scraped: what it says is what happened, and Prometheus takes it. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createTestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { post, untilStatus } from '../support/messages.ts'
import { promtool, promtoolObstacle } from '../support/promtool.ts'
import { readSamples, scrape } from '../support/scrape.ts'
import { spawnService, startTestService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'

const obstacle = promtoolObstacle()

test('what a process does is counted where it happened, and timed in buckets that add up', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  const service = await startTestService(database, { SMTP_URL: sink.url })
  const before = await scrape(service.url)
  assert.equal(before.get('sluice_messages_sent_total{stream="transactional",provider="default"}'), 0)

  const ids = await Promise.all(Array.from({ length: 3 }, () => post(service)))
  ids.push(await post(service, { stream: 'alerts' }))
  for (const id of ids) await untilStatus(database, id, 'sent')
  await database.query("select mail.suppress('nobody@example.net')")
  await untilStatus(database, await post(service, { to: ['nobody@example.net'] }), 'suppressed')

  const samples = await eventually('everything is counted', async () => {
    const seen = await scrape(service.url)
    return seen.get('sluice_messages_suppressed_total{stream="transactional",provider=""}') === 1 && seen
  })
  const counted = {
    'sluice_messages_accepted_total{stream="transactional"}': 4,
    'sluice_messages_accepted_total{stream="alerts"}': 1,
    'sluice_messages_accepted_total{stream="marketing"}': 0,
    'sluice_messages_processed_total{stream="transactional"}': 4,
    'sluice_messages_sent_total{stream="transactional",provider="default"}': 3,
    'sluice_messages_sent_total{stream="alerts",provider="default"}': 1,
    'sluice_messages_dead_total{stream="transactional",provider="default"}': 0,
    'sluice_provider_requests_total{stream="transactional",provider="default"}': 3,
    'sluice_provider_faults_total{stream="transactional",provider="default"}': 0,
    'sluice_stage_messages_in_total{stage="dispatch",stream="transactional",provider="default"}': 3,
    'sluice_stage_messages_out_total{stage="dispatch",stream="transactional",provider="default"}': 3,
    'sluice_time_to_send_seconds_count{stream="transactional"}': 3,
    'sluice_time_to_send_seconds_bucket{le="+Inf",stream="transactional"}': 3,
    'sluice_provider_latency_seconds_count{provider="default"}': 4,
    'sluice_http_requests_total{method="POST",route="/emails",status="2xx"}': 5,
    'sluice_http_request_duration_seconds_count{route="/emails"}': 5,
    'sluice_worker_slots{stream="transactional",provider="default"}': 20,
    'sluice_worker_slots_used{stream="transactional",provider="default"}': 0,
    'sluice_intake_pressure{level="none"}': 1,
    sluice_pool_connections_max: 12,
    'sluice_info{version="0.1.0",roles="api,worker"}': 1,
  }
  const seen = Object.fromEntries(Object.keys(counted).map((name) => [name, samples.get(name)]))
  assert.deepEqual(seen, counted)
  const buckets = [...samples].filter(([name]) =>
    /^sluice_time_to_send_seconds_bucket.*"transactional"/.test(name),
  )
  assert.equal(buckets.length, 21)
  const values = buckets.map(([, value]) => value)
  assert.deepEqual(values, values.toSorted(), 'each bucket holds those below it')
  const sum = samples.get('sluice_time_to_send_seconds_sum{stream="transactional"}') ?? 0
  assert.ok(sum > 0 && sum < 600, `${sum} s`)
  for (const name of [
    'process_cpu_seconds_total',
    'process_resident_memory_bytes',
    'nodejs_eventloop_lag_p99_seconds',
  ])
    assert.ok((samples.get(name) ?? 0) > 0, name)
})

test('how the whole system is doing is read from Postgres', async (t) => {
  const database = await createTestDatabase(t)
  // From before the start, so that nothing is sent before the pause is seen.
  await database.query("select mail.pause('transactional')")
  const service = await startTestService(database)
  await database.query(`
    insert into mail.bucket (provider, name, quota, window_s, utilization, burst) values ('default', 'second', 10, 1, 1, 40);
    insert into mail.provider_state (provider, breaker, breaker_until, blocked_until)
    values ('default', 'open', now() + interval '1 hour', now() + interval '1 hour');
    insert into mail.intake_loss (intact_at, at_least, at_most) values (now(), 3, 7), (now(), 1, 2);
    insert into mail.dead_letter (message_id, stage, code, reason, stream, source)
    select gen_random_uuid(), 'dispatch', 'refused', 'no', 'transactional', 'app' from generate_series(1, 5);
    insert into mail.feedback_unmatched (provider, key, event, next_try_at)
    values ('default', 'a', '{}', now() + interval '1 hour'), ('default', 'b', '{}', null);
    select id from mail.webhook_create('https://app.example.com/hook');
    update mail.webhook_endpoint set failures = 4`)
  for (let n = 0; n < 3; n += 1) await post(service)
  const [endpoint] = await database.query<{ id: string }>('select id from mail.webhook_endpoint')
  // A count that saw the three before this process had told of them has them twice until the next one, whenever that is.
  await eventually('what came in was told', () =>
    database
      .query("select from mail.throughput where stage = 'dispatch' having sum(came_in) = 3")
      .then(([told]) => told),
  )
  await database.query('select mail.count_depth()')
  const samples = await eventually('what waits was measured', async () => {
    const seen = await scrape(service.url)
    const waiting =
      'sluice_waiting_messages{stage="dispatch",stream="transactional",provider="default",state="ready"}'
    return seen.get(waiting) === 3 && seen
  })
  const expected = {
    sluice_database_up: 1,
    'sluice_waiting_messages{stage="intake",stream="alerts",provider="",state="ready"}': 0,
    'sluice_bucket_tokens{provider="default",bucket="second"}': 40,
    'sluice_bucket_capacity_tokens{provider="default",bucket="second"}': 40,
    'sluice_bucket_used_ratio{provider="default",bucket="second"}': 0,
    'sluice_provider_breaker_state{provider="default",state="closed"}': 0,
    'sluice_provider_breaker_state{provider="default",state="open"}': 1,
    'sluice_provider_held{provider="default",reason="blocked"}': 1,
    'sluice_provider_held{provider="default",reason="paused"}': 0,
    'sluice_stream_paused{stream="transactional"}': 1,
    'sluice_stream_paused{stream="alerts"}': 0,
    'sluice_stream_send_within_seconds{stream="transactional"}': 5,
    sluice_dead_letters: 5,
    sluice_intake_losses_total: 2,
    sluice_intake_lost_messages_at_least_total: 4,
    sluice_intake_lost_messages_at_most_total: 9,
    sluice_workers: 1,
    sluice_scale_workers_current: 1,
    sluice_webhook_deliveries_waiting: 0,
    [`sluice_webhook_endpoint_failures{endpoint="${endpoint?.id}"}`]: 4,
    [`sluice_webhook_endpoint_disabled{endpoint="${endpoint?.id}"}`]: 0,
    'sluice_feedback_deliveries{state="parked"}': 0,
    'sluice_feedback_unmatched{state="waiting"}': 1,
    'sluice_feedback_unmatched{state="given_up"}': 1,
  }
  const seen = Object.fromEntries(Object.keys(expected).map((name) => [name, samples.get(name)]))
  assert.deepEqual(seen, expected)
  const age = samples.get(
    'sluice_waiting_oldest_age_seconds{stage="dispatch",stream="transactional",provider="default"}',
  )
  assert.ok(age !== undefined && age > 0 && age < 120, `${age} s`)
  assert.ok((samples.get('sluice_depth_age_seconds') ?? 99) < 30)
  assert.ok((samples.get('sluice_postgres_table_size_bytes{table="mail.message"}') ?? 0) > 10_000)
  assert.ok((samples.get('sluice_postgres_database_size_bytes') ?? 0) > 5_000_000)
  assert.ok((samples.get('sluice_postgres_connections') ?? 0) >= 2)
})

test('what nobody measures any more is left out, not repeated', async (t) => {
  const database = await createTestDatabase(t)
  const service = await startTestService(database, { SLUICE_ROLES: 'api' })
  await database.query(
    'drop function mail.estimate_depth() cascade; drop function mail.count_depth() cascade',
  )
  const look = async () => {
    // A count that was under way when the functions went writes its rows after that, and removes those it does not know.
    await database.query(
      `insert into mail.depth (stage, stream, provider, ready, deferred, in_flight, measured_at, counted_ready, counted_net, counted_from)
       values ('dispatch', 'transactional', 'default', 9, 0, 0, now(), 9, 0, now())
       on conflict do nothing`,
    )
    await database.query("update mail.depth set measured_at = now() - interval '5 minutes'")
    const seen = await scrape(service.url)
    return (seen.get('sluice_depth_age_seconds') ?? 0) >= 300 && seen
  }
  const samples = await eventually('the age of the measure is seen', look)
  assert.deepEqual(
    [...samples.keys()].filter((name) => name.startsWith('sluice_waiting_')),
    [],
  )
  assert.equal(samples.get('sluice_database_up'), 1)
})

test('promtool finds nothing wrong with a scrape', { ...(obstacle && { skip: obstacle }) }, async (t) => {
  const database = await createTestDatabase(t)
  const service = await startTestService(database)
  await untilStatus(database, await post(service), 'sent')
  const text = await (await fetch(new URL('/metrics', service.url))).text()
  assert.ok(readSamples(text).size > 150)
  assert.equal(await promtool(['check', 'metrics'], text), '')
})

test('/metrics asks for no key and takes GET and HEAD; paths that are no routes make no labels', async (t) => {
  const database = await createTestDatabase(t)
  const service = await startTestService(database)
  const ask = (path: string, method: string) => fetch(new URL(path, service.url), { method })
  const head = await ask('/metrics', 'HEAD')
  assert.deepEqual([head.status, await head.text()], [200, ''])
  const refused = await ask('/metrics', 'POST')
  assert.deepEqual([refused.status, refused.headers.get('Allow')], [405, 'GET, HEAD'])
  await ask('/emails/one', 'GET')
  await ask('/nothing/here', 'GET')
  await ask('/nothing/there', 'PROPFIND')
  const samples = await scrape(service.url)
  const requests = [...samples].filter(([name]) => name.startsWith('sluice_http_requests_total'))
  assert.deepEqual(Object.fromEntries(requests), {
    'sluice_http_requests_total{method="HEAD",route="/metrics",status="2xx"}': 1,
    'sluice_http_requests_total{method="POST",route="none",status="4xx"}': 1,
    'sluice_http_requests_total{method="GET",route="/emails/:id",status="4xx"}': 1,
    'sluice_http_requests_total{method="GET",route="none",status="4xx"}': 1,
    'sluice_http_requests_total{method="other",route="none",status="4xx"}': 1,
  })
})

test('with SLUICE_METRICS_PORT the metrics are there alone, and health as well', async (t) => {
  const database = await createTestDatabase(t)
  const service = await startTestService(database, { SLUICE_METRICS_PORT: '0' })
  const status = async (base: string | undefined, path: string) => (await fetch(new URL(path, base))).status
  assert.equal(await status(service.url, '/metrics'), 404)
  assert.equal(await status(service.url, '/healthz'), 200)
  assert.equal(await status(service.metricsUrl, '/healthz'), 200)
  assert.equal(await status(service.metricsUrl, '/readyz'), 200)
  assert.equal(await status(service.metricsUrl, '/emails'), 404)
  // The requests of both ports would be one: those of the API are counted.
  const samples = await scrape(service.metricsUrl)
  assert.equal(samples.get('sluice_http_requests_total{method="GET",route="/healthz",status="2xx"}'), 1)
})

test('a process that is only a worker can be scraped and asked how it is', async (t) => {
  const database = await createTestDatabase(t)
  const worker = await spawnService(t, database.url, { SLUICE_ROLES: 'worker', SLUICE_METRICS_PORT: '0' })
  const { url } = await worker.logged('metrics are served')
  const samples = await scrape(String(url))
  assert.equal(samples.get('sluice_info{version="0.1.0",roles="worker"}'), 1)
  assert.equal(samples.get('sluice_workers'), 1)
  assert.equal((await fetch(new URL('/readyz', String(url)))).status, 200)
  worker.process.kill('SIGTERM')
  assert.equal(await worker.ended, 0)
})
