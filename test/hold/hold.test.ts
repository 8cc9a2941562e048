/** While nothing is sent: what goes on, what is told to whom, and what each way to release does. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { Client } from 'pg'
import { WORKER_LOCK } from '../../src/db/session.ts'
import { examine } from '../../src/doctor/examine.ts'
import { addTarget, evaluate, openNotifier } from '../alerts/alert-stage.ts'
import { assertFinding } from '../doctor/findings.ts'
import { openBrowser } from '../http/dashboard/browser.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { eventTypesOf, insertMany, post, readMessage, untilStatus } from '../support/messages.ts'
import { startTestService, TEST_KEY } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'
import { startWebhookReceiver } from '../support/webhook-receiver.ts'
import { makeEndpoint } from '../webhooks/webhook-stage.ts'

async function start(t: TestContext, extra: Readonly<Record<string, string>> = {}, before = 'select') {
  const sink = await startSmtpSink(t)
  const database = await createTestDatabase(t)
  await database.query(before)
  const service = await startTestService(database, { SMTP_URL: sink.url, ...extra })
  return { sink, database, service }
}

async function say({ query }: Pick<TestDatabase, 'query'>, statement: string): Promise<string> {
  const [row] = await query<Record<string, string>>(statement)
  return Object.values(row ?? {})[0] ?? ''
}

/** Before a worker runs: it would send some until it notices. */
const PAUSED = "select mail.pause('transactional')"

/** The worker has seen it: what could be claimed by now would have been. */
function untilSeen({ query }: TestDatabase, count: number): Promise<unknown> {
  return eventually(`${count} messages are processed and wait`, async () => {
    const rows = await query("select from mail.message where status in ('queued', 'scheduled', 'deferred')")
    return rows.length === count
  })
}

test('held mail is accepted and processed, says why it waits, and goes out when everything is released', async (t) => {
  const { sink, database, service } = await start(t)
  await say(database, "select mail.hold('restored from Monday')")
  assert.match(await say(database, "select mail.hold('another reason')"), /: restored from Monday\. /)
  const id = await post(service)
  await untilSeen(database, 1)
  assert.match(
    await say(database, `select mail.why('${id}')`),
    /nothing is sent since .*: restored from Monday; a person ends/,
  )
  assert.match(
    await say(database, "select status from mail.provider_status where provider = 'default'"),
    /^nothing is sent/,
  )
  const ready = (await (await service.request('/readyz')).json()) as { status: string; held: string }
  assert.deepEqual([ready.status, /restored from Monday/.test(ready.held)], ['ready', true])
  assert.match(await (await service.request('/metrics')).text(), /^sluice_sending_held 1$/m)
  assertFinding(
    await examine({ DATABASE_URL: database.url, SMTP_URL: sink.url }),
    'sending',
    'problem',
    /Monday/,
  )
  const browser = openBrowser(service.url ?? '')
  await browser.signIn(TEST_KEY)
  await eventually('the overview says so', async () => {
    return /Nothing is sent since .*: restored from Monday/.test(await browser.page('/'))
  })
  assert.equal(sink.mails.length, 0)
  assert.match(await say(database, "select mail.release('send')"), /everything that waited goes out/)
  assert.equal(await say(database, "select mail.release('send')"), 'nothing is held')
  await untilStatus(database, id, 'sent')
  assert.equal(sink.mails.length, 1)
})

test('what waited is set aside as unknown, mail that came later goes at once, and each is settled by hand', async (t) => {
  const { sink, database, service } = await start(t, {}, PAUSED)
  const old = await insertMany(database, 3)
  const soon = await post(service, { scheduled_at: new Date(Date.now() + 3_600_000).toISOString() })
  await untilSeen(database, 4)
  await database.query("select mail.hold('restored')")
  await database.query("select mail.resume('transactional')")
  const reset = await post(service, { subject: 'Your new password' })
  await untilSeen(database, 5)
  const held = await database.query<{ status: string; is_at_risk: boolean; messages: string }>(
    'select status, is_at_risk, messages from mail.held',
  )
  assert.deepEqual(
    held.map(({ status, is_at_risk: atRisk, messages }) => [status, atRisk, Number(messages)]),
    [
      ['queued', true, 3],
      ['queued', false, 1],
      ['scheduled', false, 1],
    ],
  )
  assert.match(
    await say(database, "select mail.release('set_aside')"),
    /3 messages that waited are unknown now/,
  )
  await untilStatus(database, reset, 'sent')
  assert.equal((await readMessage(database, soon))?.status, 'scheduled')
  for (const id of old) assert.equal((await readMessage(database, id))?.last_error, 'held')
  const [first = '', second = '', third = ''] = old
  await say(database, `select mail.settle_unknown('${first}', 'sent')`)
  await say(database, `select mail.settle_unknown('${second}', 'retry')`)
  await untilStatus(database, second, 'sent')
  assert.deepEqual(
    [(await readMessage(database, first))?.status, (await readMessage(database, third))?.status],
    ['sent', 'unknown'],
  )
  assert.ok((await eventTypesOf(database, third)).includes('unknown'))
  assert.equal(sink.mails.length, 2)
})

test('what waited is discarded, without its content', async (t) => {
  const { sink, database, service } = await start(t, {}, PAUSED)
  const [id = ''] = await insertMany(database, 1)
  await untilSeen(database, 1)
  await database.query("select mail.hold('restored')")
  await database.query("select mail.resume('transactional')")
  await assert.rejects(
    database.query("select mail.release('everything')"),
    /release as send, set_aside or discard/,
  )
  await database.query("select mail.release('discard')")
  assert.equal((await readMessage(database, id))?.status, 'canceled')
  await untilStatus(database, await post(service), 'sent')
  assert.equal(sink.mails.length, 1)
})

test('what a dead worker was sending is set aside as well, and what a living one is sending is left to it', async (t) => {
  const { database, service } = await start(t, {}, PAUSED)
  const ids = await insertMany(database, 2)
  await untilSeen(database, 2)
  await service.stop()
  await database.query("select mail.hold('restored')")
  const [alive] = await database.query<{ number: number }>(
    "insert into mail.worker (name) values ('lives') returning number",
  )
  const [dead] = await database.query<{ number: number }>(
    "insert into mail.worker (name) values ('died') returning number",
  )
  const holder = new Client({ connectionString: database.url })
  await holder.connect()
  database.beforeDrop(() => holder.end())
  await holder.query(
    `with mine as (update mail.worker set backend_pid = pg_backend_pid() where number = $2 returning lock_key)
     select pg_advisory_lock($1, lock_key) from mine`,
    [WORKER_LOCK, alive?.number],
  )
  for (const [place, worker] of [alive, dead].entries()) {
    await database.query("update mail.message set status = 'sending', worker = $2 where id = $1", [
      ids[place],
      worker?.number,
    ])
  }
  await database.query("select mail.release('set_aside')")
  const states = await Promise.all(ids.map((id) => readMessage(database, id)))
  assert.deepEqual(
    states.map((row) => row?.status),
    ['sending', 'unknown'],
  )
})

test('a process started with SLUICE_START_HELD holds once under those words', async (t) => {
  const sink = await startSmtpSink(t)
  const database = await createTestDatabase(t)
  const environment = { SMTP_URL: sink.url, SLUICE_START_HELD: 'backup of Monday' }
  const [id = ''] = await insertMany(database, 1)
  const first = await startTestService(database, environment)
  await untilSeen(database, 1)
  await first.stop()
  assert.equal(sink.mails.length, 0)
  await database.query("select mail.release('send')")
  await startTestService(database, environment)
  await untilStatus(database, id, 'sent')
})

test('webhooks are told nothing meanwhile, and alert targets of the hold alone', async (t) => {
  const app = await startWebhookReceiver(t)
  const { database, service } = await start(t, { SLUICE_WEBHOOK_HOSTS: app.host })
  await makeEndpoint(database, app.url, ['email.sent', 'email.scheduled'])
  await database.query("select mail.hold('restored')")
  await post(service, { scheduled_at: new Date(Date.now() + 3_600_000).toISOString() })
  await eventually(
    'a delivery waits',
    async () => (await database.query('select from mail.webhook_delivery')).length === 1,
  )
  await service.stop()

  const team = await startWebhookReceiver(t)
  await addTarget(database, { name: 'team', kind: 'generic', url: team.url })
  await database.query(
    "update mail.alert_rule set enabled = rule_is from (select name, name in ('sending_held', 'worker_died') as rule_is from mail.alert_rule) r where r.name = alert_rule.name",
  )
  await database.query('update mail.alert_rule set for_s = 0, clear_for_s = 0')
  await database.query("insert into mail.worker_death (number, name) values (1, 'gone:1')")
  const notifier = openNotifier(database, [team])
  await evaluate(database)
  await notifier.look()
  const [told] = await team.waitFor(1)
  assert.deepEqual(
    (JSON.parse(told?.body ?? '') as { data: { alerts: { rule: string }[] } }).data.alerts.map(
      ({ rule }) => rule,
    ),
    ['sending_held'],
  )
  assert.equal(app.received.length, 0)

  await database.query("select mail.release('send')")
  await evaluate(database)
  await notifier.look()
  const [, after] = await team.waitFor(2)
  assert.match(after?.body ?? '', /worker_died/)
})

test('mail at the door is moved first: it may have gone out as well', async (t) => {
  const database = await createTestDatabase(t)
  await insertMany(database, 1)
  await database.query("select mail.hold('restored')")
  await assert.rejects(database.query("select mail.release('set_aside')"), /still at the door/)
})
