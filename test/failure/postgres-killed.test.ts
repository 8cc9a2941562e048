/** Postgres dies in every way it can: what was answered `durable` arrives, and every process goes on by itself. */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { test } from 'node:test'
import { eventually } from '../support/eventually.ts'
import {
  assertAlive,
  type KillablePostgres,
  spawnBoth,
  startKillablePostgres,
} from '../support/killable-postgres.ts'
import { untilAll } from '../support/messages.ts'
import { orderMail, type SpawnedService, spawnService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'
import { copiesOf, duplicatesIn } from '../support/sunk-mail.ts'

/** A process that never comes to the point must not hang the suite. */
const LIMIT = { timeout: 90_000 }

/** The server is away for a moment: asks until it answers. */
function persistent(server: KillablePostgres): Pick<KillablePostgres, 'query'> {
  return {
    query: (text, values) =>
      eventually('the database answers', () => server.query(text, values).catch(() => null)),
  } as Pick<KillablePostgres, 'query'>
}

const RETRY_MS = 100

/** Posts one message under a key of its own until it has a durable answer, as a careful client does. */
async function deliver(api: SpawnedService, key: string): Promise<string> {
  for (;;) {
    assertAlive(api)
    const answer = await api
      .request('/emails', { body: orderMail(), headers: { 'Idempotency-Key': key } })
      .catch(() => undefined)
    if (answer?.status === 200) {
      assert.equal(answer.headers.get('Sluice-Durability'), 'durable')
      return ((await answer.json()) as { id: string }).id
    }
    if (answer !== undefined) assert.equal(answer.status, 503, await answer.text())
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS))
  }
}

/** Delivers `count` messages from several clients at once; calls `atHalf` when half of them are answered. */
async function deliverMany(
  api: SpawnedService,
  count: number,
  atHalf: () => Promise<void>,
): Promise<string[]> {
  const ids: string[] = []
  let begun = 0
  let interruption: Promise<void> | undefined
  const client = async () => {
    while (begun < count) {
      begun += 1
      ids.push(await deliver(api, randomUUID()))
      if (ids.length === count / 2) interruption = atHalf()
    }
  }
  await Promise.all(Array.from({ length: 64 }, client))
  await interruption
  return ids
}

for (const { what, count, kill } of [
  {
    what: 'the postmaster is killed in the middle of 1,000 messages',
    count: 1_000,
    kill: async (server: KillablePostgres) => {
      process.kill(server.postmasterPid(), 'SIGKILL')
    },
  },
  {
    what: 'one backend is killed, as by the OOM killer, in the middle of 400 messages',
    count: 400,
    kill: async (server: KillablePostgres) => {
      const [backend] = await server.query<{ pid: number }>(
        "select pid from pg_stat_activity where application_name = 'sluice' limit 1",
      )
      process.kill(backend?.pid ?? 0, 'SIGKILL')
    },
  },
]) {
  test(`when ${what} every durable answer is kept`, LIMIT, async (t) => {
    const server = await startKillablePostgres(t)
    const sink = await startSmtpSink(t)
    const { api, worker } = await spawnBoth(t, server.url, sink.url)
    const ids = await deliverMany(api, count, () => kill(server))
    assert.equal(new Set(ids).size, count)
    await untilAll(persistent(server), count, 'sent')
    const arrived = copiesOf(sink.mails)
    assert.deepEqual(
      ids.filter((id) => !arrived.has(id)),
      [],
    )
    // The worker lived through it and knows what became of each send: nothing is sent twice.
    assert.deepEqual(duplicatesIn(sink.mails), [])
    assertAlive(api, worker)
  })
}

test(
  'a crash that empties the intake is noticed, with a range that holds the number of messages lost',
  LIMIT,
  async (t) => {
    const server = await startKillablePostgres(t)
    const sink = await startSmtpSink(t)
    const first = await spawnService(t, server.url, { SMTP_URL: sink.url })
    await eventually('the watch has begun', async () => {
      return (await server.query('select from mail.intake_canary')).length === 1
    })
    process.kill(first.pid, 'SIGTERM')
    assert.equal(await first.ended, 0)
    const append = (door: string, count: number) =>
      server.query(
        `insert into mail.${door} (message) select $1::json from generate_series(1, $2::integer)`,
        [JSON.stringify(orderMail()), count],
      )
    await append('intake', 10)
    await server.query('select mail.watch_intake()')
    await append('intake', 15)
    await append('outbox', 5)

    const before = await server.query<{ started: string }>(
      'select pg_postmaster_start_time()::text as started',
    )
    process.kill(server.postmasterPid(), 'SIGKILL')
    await eventually('Postgres is back', async () => {
      const after = await server
        .query<{ started: string }>('select pg_postmaster_start_time()::text as started')
        .catch(() => undefined)
      return after !== undefined && after[0]?.started !== before[0]?.started
    })
    const second = await spawnService(t, server.url, { SMTP_URL: sink.url })
    const noticed = await second.logged(
      'a crash of Postgres emptied the unlogged intake: buffered messages were lost',
    )
    const [loss] = await server.query<{ at_least: number; at_most: number }>(
      'select at_least::integer, at_most::integer from mail.intake_loss',
    )
    assert.deepEqual([Number(noticed.atLeast), Number(noticed.atMost)], [loss?.at_least, loss?.at_most])
    assert.equal(loss?.at_least, 10)
    // Sequence numbers skip over a crash: the upper end may be above the truth, never below.
    assert.ok(loss.at_most >= 25 && loss.at_most <= 25 + 40, `at most ${loss.at_most}`)
    await untilAll(server, 5, 'sent')
    assert.equal(sink.mails.length, 5)
  },
)
