import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type ClientRequest, request as httpRequest, type IncomingMessage } from 'node:http'
import { json } from 'node:stream/consumers'
import { test } from 'node:test'
import { createTestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { orderMail, startTestService, TEST_KEY } from '../support/service.ts'

const LARGE = 50 * 1_024 * 1_024

/** Begins a request with a body that is declared and does not come. */
function begin(url: string, bytes: number | 'chunked'): ClientRequest {
  const framing = bytes === 'chunked' ? { 'Transfer-Encoding': 'chunked' } : { 'Content-Length': bytes }
  const request = httpRequest(url, {
    method: 'POST',
    headers: { Authorization: `Bearer ${TEST_KEY}`, 'Content-Type': 'application/json', ...framing },
    agent: false,
  })
  request.on('error', () => undefined)
  request.flushHeaders()
  return request
}

async function answerTo(request: ClientRequest) {
  const [response] = (await once(request, 'response')) as [IncomingMessage]
  const body = (await json(response)) as { name?: string }
  request.destroy()
  return { status: response.statusCode, name: body.name, retryAfter: response.headers['retry-after'] }
}

test('large bodies are read only as many at once as memory allows; small mail goes on, and room comes back', async (t) => {
  const database = await createTestDatabase(t)
  const service = await startTestService(database, { SLUICE_ROLES: 'api' })
  const emails = `${service.url}/emails`
  const held = [begin(emails, LARGE), begin(emails, LARGE), begin(emails, LARGE)]
  const refused = await eventually('a fourth is refused', async () => {
    const fourth = begin(emails, LARGE)
    const answer = await Promise.race([answerTo(fourth), silence()])
    if (answer === undefined) fourth.destroy()
    return answer
  })
  assert.deepEqual(refused, { status: 503, name: 'service_unavailable', retryAfter: '2' })
  assert.equal((await service.request('/emails', { body: orderMail() })).status, 200)
  // What comes without a length is counted as it comes.
  const chunked = begin(emails, 'chunked')
  const answer = answerTo(chunked)
  for (let sent = 0; sent < LARGE && !chunked.destroyed; sent += 1_000_000)
    chunked.write(Buffer.alloc(1_000_000, 32))
  chunked.end()
  assert.equal((await answer).status, 503)

  for (const request of held) request.destroy()
  const large = JSON.stringify(orderMail()) + ' '.repeat(LARGE)
  await eventually('the room is free again', async () => {
    return (await service.request('/emails', { body: large })).status === 200
  })
})

test('what strangers send to the paths of providers takes room of its own, and only once it is here', async (t) => {
  const database = await createTestDatabase(t)
  const service = await startTestService(database, { SLUICE_ROLES: 'api' })
  const path = `${service.url}/webhooks/generic/app`
  const bytes = 1_024 * 1_024
  const idle = Array.from({ length: 40 }, () => begin(path, bytes))
  const tell = async () => (await fetch(path, { method: 'POST', body: 'x'.repeat(1_000) })).status
  assert.equal(await tell(), 404)
  // One after the other: of many at once some are refused while they come, and leave room behind.
  await eventually('the room is used up', async () => {
    if ((await tell()) === 503) return true
    const sending = begin(path, bytes)
    sending.write(Buffer.alloc(bytes - 1))
    idle.push(sending)
    return false
  })
  assert.equal((await service.request('/emails', { body: orderMail() })).status, 200)
  for (const request of idle) request.destroy()
  await eventually('the room is free again', async () => (await tell()) === 404)
})

test('only a message may be large, and without its attachments no more than a row holds', async (t) => {
  const database = await createTestDatabase(t)
  const service = await startTestService(database, { SLUICE_ROLES: 'api' })
  const errorOf = async (path: string, body: unknown) => {
    const response = await service.request(path, { body })
    return { status: response.status, ...((await response.json()) as { name: string; message: string }) }
  }
  const template = await errorOf('/templates', { name: 'x', html: 'x'.repeat(6 * 1_024 * 1_024) })
  assert.deepEqual([template.status, template.name], [413, 'payload_too_large'])
  assert.match(template.message, /5242880 bytes/)
  // A quotation mark takes two bytes as JSON.
  const quotes = '"'.repeat(9 * 1_024 * 1_024)
  const message = await errorOf('/emails', orderMail({ html: quotes, text: quotes }))
  assert.deepEqual([message.status, message.name], [413, 'payload_too_large'])
  assert.match(message.message, /33554432 bytes as JSON, without the bytes of its attachments/)
})

/** How long a request that is let in says nothing, for all this test waits. */
function silence(): Promise<undefined> {
  return new Promise((resolve) => setTimeout(() => resolve(undefined), 200))
}
