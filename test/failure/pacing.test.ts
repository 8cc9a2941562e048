/** Several worker processes on one bucket: the provider's quota holds over all of them, also when one is killed. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { createTestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { insertMany, untilAll } from '../support/messages.ts'
import { addBucket } from '../support/pacing.ts'
import { spawnService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'
import { copiesOf, duplicatesIn } from '../support/sunk-mail.ts'
import { mostInWindow, ratePerS } from '../support/windows.ts'

/** A process that never comes to the point must not hang the suite. */
const LIMIT = { timeout: 120_000 }
const QUOTA = 100
/** Lower than usual: what is left of the quota covers sends that a busy machine makes half a second late. */
const UTILIZATION = 0.5
const WORKERS = 4

/** As many mails as wait for a paused provider, before the workers that will share its bucket. */
async function startWorkers(t: TestContext, count: number) {
  const database = await createTestDatabase(t)
  const arrivals: number[] = []
  const sink = await startSmtpSink(t, {
    onMail: () => {
      arrivals.push(performance.now())
      return undefined
    },
  })
  const environment = { SMTP_URL: sink.url, SLUICE_ROLES: 'worker' }
  const workers = [await spawnService(t, database.url, environment)]
  await addBucket(database, 'default', { quota: QUOTA, utilization: UTILIZATION })
  await database.query("select mail.pause('default')")
  while (workers.length < WORKERS) workers.push(await spawnService(t, database.url, environment))
  const ids = await insertMany(database, count)
  return { database, arrivals, sink, workers, ids }
}

test(
  'four worker processes never exceed the quota in any second, nor their share of it on average',
  LIMIT,
  async (t) => {
    const count = 400
    const { database, arrivals, ids, sink } = await startWorkers(t, count)
    await untilAll(database, count, 'queued')
    await database.query("select mail.resume('default')")
    await untilAll(database, count, 'sent', 60_000)
    assert.deepEqual([...copiesOf(sink.mails).keys()].toSorted(), ids.toSorted())
    assert.deepEqual(duplicatesIn(sink.mails), [])
    const most = mostInWindow(arrivals, 1_000)
    assert.ok(most <= QUOTA, `${most} in one second, ${QUOTA} are allowed`)
    // How near it comes to the share is for the benchmark to say: a busy machine must not fail a test.
    const perS = ratePerS(arrivals, 1_000)
    assert.ok(perS < QUOTA * UTILIZATION * 1.1, `${perS} a second`)
  },
)

test(
  'tokens of a worker that is killed are not given again: the quota holds, and nothing is lost',
  LIMIT,
  async (t) => {
    const count = 350
    const { database, arrivals, ids, sink, workers } = await startWorkers(t, count)
    await untilAll(database, count, 'queued')
    await database.query("select mail.resume('default')")
    for (const [index, worker] of workers.slice(1).entries()) {
      await sink.waitForMails(100 * (index + 1))
      process.kill(worker.pid, 'SIGKILL')
      await worker.ended
    }
    await untilAll(database, count, 'sent', 90_000)
    assert.deepEqual([...copiesOf(sink.mails).keys()].toSorted(), ids.toSorted())
    const recovered = await eventually('what they were sending was taken over', async () =>
      database.query<{ id: string }>("select message_id as id from mail.event where type = 'recovered'"),
    )
    // Sent twice at most what was on its way when a worker died.
    const inDoubt = new Set(recovered.map(({ id }) => id))
    assert.ok(duplicatesIn(sink.mails).every((id) => inDoubt.has(id)))
    const most = mostInWindow(arrivals, 1_000)
    assert.ok(most <= QUOTA, `${most} in one second, ${QUOTA} are allowed`)
  },
)
