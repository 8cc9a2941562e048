/** From a send to what its provider tells of it, over the whole service. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createTestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { apply, eventOf, openTestPool } from '../support/feedback.ts'
import { post, untilStatus } from '../support/messages.ts'
import { addProvider, variableOf } from '../support/pacing.ts'
import { STAND_IN_KEY } from '../support/provider-rules.ts'
import { startStandIn } from '../support/provider-stand-ins.ts'
import { startTestService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'

test('an event is matched by the id the provider gave, and the email shows it', async (t) => {
  const database = await createTestDatabase(t)
  const db = openTestPool(database)
  const standIn = await startStandIn(t, 'postmark')
  await addProvider(database, 'api', { transport: 'postmark', base_url: standIn.url })
  await database.query("update mail.stream set route = '{api}'")
  const service = await startTestService(database, { [variableOf('api')]: STAND_IN_KEY })
  const id = await post(service, { from: 'shop@shop.test' })
  await untilStatus(database, id, 'sent')
  const [message] = await database.query<{ provider_message_id: string }>(
    'select provider_message_id from mail.message where id = $1',
    [id],
  )
  const match = { providerMessageId: `<${message?.provider_message_id}>` }
  const lastEvent = async () => {
    const response = await service.request(`/emails/${id}`)
    const { status, last_event: last } = (await response.json()) as Record<string, string>
    return `${status} ${last}`
  }
  for (const [type, shown] of [
    ['deferred', 'sent delivery_delayed'],
    ['delivered', 'delivered delivered'],
    ['clicked', 'delivered clicked'],
    ['opened', 'delivered clicked'],
    ['complained', 'complained complained'],
  ] as const) {
    await apply(db, [eventOf('', type, { provider: 'api', match })])
    assert.equal(await lastEvent(), shown, type)
  }
  const next = await post(service, { from: 'shop@shop.test' })
  await untilStatus(database, next, 'suppressed')
})

test('what a relay calls a message is not kept for matching', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  const service = await startTestService(database, { SMTP_URL: sink.url })
  await untilStatus(database, await post(service), 'sent')
  assert.equal((await database.query('select from mail.provider_ref')).length, 0)
})

test('a deferred message that turns out to be delivered is not sent again', async (t) => {
  const database = await createTestDatabase(t)
  const db = openTestPool(database)
  const sink = await startSmtpSink(t, { onMail: () => ({ code: 451, text: '4.3.0 Not now' }) })
  const service = await startTestService(database, { SMTP_URL: sink.url })
  await database.query('update mail.stream set backoff_base_s = 3600, backoff_cap_s = 3600')
  const id = await post(service)
  await untilStatus(database, id, 'deferred')
  await apply(db, [eventOf(id, 'delivered')])
  await untilStatus(database, id, 'delivered')
  await database.query('update pgboss.job set start_after = now() where id = $1', [id])
  const other = await post(service, { to: ['other@example.net'] })
  await untilStatus(database, other, 'deferred')
  await eventually('its job has nothing left to do', async () => {
    const jobs = await database.query("select from pgboss.job where id = $1 and state < 'completed'", [id])
    return jobs.length === 0
  })
  assert.equal((await untilStatus(database, id, 'delivered')).attempts, 1)
})
