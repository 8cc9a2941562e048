/** From a provider's signed webhook to the message's status and the suppression list, over the whole service. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createTestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { post, untilStatus } from '../support/messages.ts'
import { startTestService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'
import { SENDGRID_SECRET, STANDARD_SECRET, sendGridCall, standardCall } from './proofs.ts'

test('a signed hard bounce settles the message and stops the next mail to that address; a forged one does nothing', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  const service = await startTestService(database, {
    SMTP_URL: sink.url,
    SENDGRID_WEBHOOK_KEY: SENDGRID_SECRET,
    MTA_WEBHOOK_SECRET: STANDARD_SECRET,
  })
  await database.query(
    `insert into mail.webhook_source (name, kind, secrets_env)
     values ('sendgrid', 'sendgrid', 'SENDGRID_WEBHOOK_KEY'), ('mta', 'generic', 'MTA_WEBHOOK_SECRET')`,
  )
  const send = async (path: string, { headers, body }: ReturnType<typeof standardCall>) => {
    const response = await fetch(new URL(path, service.url), {
      method: 'POST',
      headers,
      body: new Uint8Array(body),
    })
    return response.status
  }
  const bounce = (id: string, email: string) =>
    JSON.stringify([
      {
        event: 'bounce',
        type: 'bounce',
        email,
        sluice_id: id,
        sg_event_id: id,
        status: '5.1.1',
        timestamp: Math.floor(Date.now() / 1_000),
      },
    ])
  const [first, second] = [
    await post(service, { to: ['gone@example.net'] }),
    await post(service, { to: ['well@example.net'] }),
  ]
  for (const id of [first, second]) await untilStatus(database, id, 'sent')

  const signed = sendGridCall(bounce(first, 'gone@example.net'), Date.now())
  const forged = { ...signed, body: Buffer.from(bounce(second, 'well@example.net')) }
  assert.deepEqual(
    [await send('/webhooks/sendgrid/sendgrid', forged), await send('/webhooks/sendgrid/sendgrid', signed)],
    [401, 200],
  )
  await untilStatus(database, first, 'bounced')
  await untilStatus(database, await post(service, { to: ['gone@example.net'] }), 'suppressed')

  const delivered = JSON.stringify({
    events: [{ type: 'delivered', sluice_id: second, recipient: 'well@example.net' }],
  })
  assert.equal(
    await send('/webhooks/generic/mta', standardCall(delivered, Date.now(), { prefix: 'webhook' })),
    200,
  )
  await untilStatus(database, second, 'delivered')
  await eventually('both are applied', async () => {
    const rows = await database.query("select from mail.feedback where state = 'applied'")
    return rows.length === 2
  })
})
