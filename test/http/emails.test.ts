import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createTestDatabase } from '../support/database.ts'
import { orderMail, startTestService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'

test('a message posted over REST is answered durably, arrives once, and can be followed', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  const service = await startTestService(database, { SMTP_URL: sink.url })
  const response = await service.request('/emails', { body: orderMail() })
  assert.equal(response.status, 200)
  assert.equal(response.headers.get('Sluice-Durability'), 'durable')
  const { id } = (await response.json()) as { id: string }
  await sink.waitForMails(1)
  assert.ok(id)
})
