/** The primary dies, a synchronous standby takes over behind the same address, and nobody restarts anything. */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { test } from 'node:test'
import { examine } from '../../src/doctor/examine.ts'
import { assertFinding } from '../doctor/findings.ts'
import { eventually } from '../support/eventually.ts'
import { assertAlive, spawnBoth } from '../support/killable-postgres.ts'
import { untilAll } from '../support/messages.ts'
import { orderMail, type SpawnedService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'
import { startPrimaryAndStandby } from '../support/standby.ts'
import { sluiceIdOf } from '../support/sunk-mail.ts'

const LIMIT = { timeout: 180_000 }
const COUNT = 400

/** Posts one message under a key of its own until it has a durable answer. */
async function deliver(api: SpawnedService): Promise<string> {
  const headers = { 'Idempotency-Key': randomUUID() }
  return eventually(
    'a durable answer',
    async () => {
      const answer = await api.request('/emails', { body: orderMail(), headers })
      if (answer.status === 200) return ((await answer.json()) as { id: string }).id
      assert.equal(answer.status, 503, await answer.text())
    },
    60_000,
  )
}

test(
  'after a failover to a synchronous standby every durable answer is kept, and each mail goes out once',
  LIMIT,
  async (t) => {
    const servers = await startPrimaryAndStandby(t)
    const sink = await startSmtpSink(t)
    const { api, worker } = await spawnBoth(t, servers.url, sink.url)
    assertFinding(
      await examine({ DATABASE_URL: servers.url, SMTP_URL: sink.url }),
      'standbys',
      'ok',
      /^commits wait for \*$/,
    )
    const standby = await examine({ DATABASE_URL: servers.standbyUrl, SMTP_URL: sink.url })
    assertFinding(standby, 'primary', 'problem', /is a standby/)
    await eventually('the intake is watched', async () => {
      return (await servers.query('select from mail.intake_canary')).length === 1
    })

    const ids: string[] = []
    let begun = 0
    let failedOver: Promise<number> | undefined
    const client = async () => {
      while (begun < COUNT) {
        begun += 1
        ids.push(await deliver(api))
        if (ids.length >= COUNT / 2) failedOver ??= servers.failOver().then(() => performance.now())
      }
    }
    await Promise.all(Array.from({ length: 16 }, client))
    const switchedAt = (await failedOver) ?? 0
    t.diagnostic(
      `the last durable answer came ${Math.round(performance.now() - switchedAt)} ms after the switch`,
    )
    await untilAll(servers, COUNT, 'sent', 60_000)
    assert.deepEqual(sink.mails.map(sluiceIdOf).toSorted(), ids.toSorted())
    // Unlogged tables are empty on a server that was a standby: that is told, as after a crash.
    const losses = await eventually('the empty intake is noticed', async () => {
      const rows = await servers.query<{ at_least: number }>('select at_least::integer from mail.intake_loss')
      return rows.length > 0 && rows
    })
    assert.equal(losses.length, 1)
    assertAlive(api, worker)
  },
)
