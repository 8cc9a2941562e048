/** What a crash of Postgres takes is said; the runs postmaster-killed and backend-killed show what it must not take. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { eventually } from '../support/eventually.ts'
import { startKillablePostgres } from '../support/killable-postgres.ts'
import { untilAll } from '../support/messages.ts'
import { orderMail, spawnService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'

/** A process that never comes to the point must not hang the suite. */
const LIMIT = { timeout: 90_000 }

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
