/** The log of a service at its most talkative never has what mail says, nor whom it is for. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createTestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { deadLetterOf, untilStatus } from '../support/messages.ts'
import { type SpawnedService, spawnService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'
import { startWebhookReceiver } from '../support/webhook-receiver.ts'
import { ENCRYPTION_KEY, newCanary, secretMail } from './canary.ts'

for (const sensitive of [true, false]) {
  test(`mail that is ${sensitive ? '' : 'not '}sensitive leaves no word in the log, whatever becomes of it`, async (t) => {
    const database = await createTestDatabase(t)
    const held = Promise.withResolvers<void>()
    const sink = await startSmtpSink(t, {
      onMail: async ({ to, raw }) => {
        if (to.some((address) => address.startsWith('hold'))) await held.promise
        const quoted = raw.toString('latin1').slice(0, 400).replaceAll(/\s+/g, ' ')
        if (to.some((address) => address.startsWith('refuse')))
          return { code: 550, text: `5.7.1 spam: ${quoted}` }
        if (to.some((address) => address.startsWith('later')))
          return { code: 451, text: `4.7.1 later: ${quoted}` }
        return undefined
      },
    })
    const receiver = await startWebhookReceiver(t, () => 500)
    const canary = newCanary()
    const environment = {
      LOG_LEVEL: 'trace',
      SMTP_URL: sink.url,
      SLUICE_ENCRYPTION_KEYS: ENCRYPTION_KEY,
      SLUICE_WEBHOOK_HOSTS: receiver.host,
    }
    const service = await spawnService(t, database.url, environment)
    const at = (name: string, changes: object = {}) =>
      secretMail(canary, {
        to: `${name}.${canary}@example.net`,
        metadata: { note: canary },
        sensitive,
        ...changes,
      })
    const send = async (body: object, path = '/emails', from: SpawnedService = service) => {
      const response = await from.request(path, {
        body,
        headers: { 'Idempotency-Key': `key ${canary} ${path}` },
      })
      const answer = (await response.json()) as { id?: string; data?: { id: string }[] }
      return answer.id ?? answer.data?.[0]?.id ?? ''
    }
    await service.request('/webhooks', {
      body: { endpoint: receiver.url, events: ['email.sent', 'email.failed'] },
    })

    const sent = await send(at('ann'))
    const batched = await send([at('bob')], '/emails/batch')
    const { to, ...message } = at('cid', { stream: 'transactional' })
    const bulked = await send({ message, recipients: [{ to }] }, '/emails/bulk')
    for (const id of [sent, batched, bulked]) await untilStatus(database, id, 'sent')

    await service.request('/emails', { body: at('dan', { subject: `two\nlines ${canary}` }) })
    await service.request('/emails', { body: `{"subject": "${canary}" oops` })
    await service.request('/emails', {
      body: at('ann', { text: `other ${canary}` }),
      headers: { 'Idempotency-Key': `key ${canary} /emails` },
    })
    await database.query('insert into mail.outbox (message) values ($1), ($2), ($3)', [
      JSON.stringify(at('eve', { subject: `two\nlines ${canary}` })),
      JSON.stringify({ ...at('fay'), text: 'NUL' }).replace('NUL', `${canary}\\u0000`),
      JSON.stringify(at('gus')),
    ])
    const [refused, later] = await Promise.all(
      ['refuse', 'later'].map(async (name) => {
        const response = await service.request('/emails', { body: at(name) })
        return ((await response.json()) as { id: string }).id
      }),
    )
    await deadLetterOf(database, refused ?? '')
    await untilStatus(database, later ?? '', 'deferred')
    await database.query('select mail.dlq_retry($1::uuid)', [refused])
    await receiver.waitFor(1)

    // A worker dies in the middle of a send; another one finds what it left.
    const dying = (await (await service.request('/emails', { body: at('hold') })).json()) as { id: string }
    await untilStatus(database, dying.id, 'sending')
    service.process.kill('SIGKILL')
    await service.ended
    held.resolve()
    const second = await spawnService(t, database.url, environment)
    await untilStatus(database, dying.id, 'sent')
    await eventually('the refused one is dead again', async () => {
      const rows = await database.query('select from mail.event where message_id = $1 and type = $2', [
        refused,
        'dead',
      ])
      return rows.length === 2
    })
    second.process.kill('SIGTERM')
    await second.ended

    const output = service.output() + second.output()
    assert.match(output, /message is dead/)
    for (const line of output.split('\n')) {
      assert.ok(!line.includes(canary), line)
      if (line.startsWith('{')) assert.ok(!line.includes('@example'), line)
    }
  })
}
