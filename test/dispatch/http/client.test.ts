import assert from 'node:assert/strict'
import { createServer } from 'node:net'
import { test } from 'node:test'
import { MACHINE_CLOCK } from '../../../src/database-clock.ts'
import { HttpClient } from '../../../src/dispatch/http/client.ts'
import { createApiTransport } from '../../../src/dispatch/http/mail-api.ts'
import { resendApi } from '../../../src/dispatch/http/resend.ts'
import { STAND_IN_KEY } from '../../support/provider-rules.ts'
import { STAND_IN_CERTIFICATE, startStandIn } from '../../support/provider-stand-ins.ts'
import { startSmtpSink } from '../../support/smtp-sink.ts'
import { openFor, outgoing, toOne, verdict } from './outgoing-mail.ts'

/** Short, because a few tests wait for them; all others end by an answer. */
const SHORT = { connectMs: 300, headersMs: 200, totalMs: 500 }

/** Resend stands for all: its answer must be read, so nothing but a whole good one counts as accepted. */
const HOSTILE = [
  ['hangs', 'hang', 'unknown timed_out'],
  ['hangs in the answer', 'hang-in-body', 'unknown protocol_error'],
  ['drips its answer', 'drip', 'unknown protocol_error'],
  ['resets the connection', 'reset', 'unknown connection_lost'],
  ['hangs up', 'hang-up', 'unknown connection_lost'],
  ['resets in the answer', 'reset-in-body', 'unknown protocol_error'],
  ['does not speak HTTP', 'garbage', 'unknown protocol_error'],
  ['answers a megabyte', 'huge-body', 'unknown protocol_error'],
  ['sends headers without end', 'huge-headers', 'unknown protocol_error'],
  ['switches to another protocol', 'switch-protocols', 'unknown protocol_error'],
  ['answers 200 without a body', { status: 200 }, 'unknown protocol_error'],
  ['answers 200 with HTML', { status: 200, body: '<html>Welcome</html>' }, 'unknown protocol_error'],
  ['answers 200 with other types', { status: 200, body: { id: 7 } }, 'unknown protocol_error'],
  ['answers 200 with null', { status: 200, body: 'null' }, 'unknown protocol_error'],
  ['answers another success', { status: 204 }, 'unknown protocol_error'],
  ['answers 504, the gateway not knowing either', { status: 504 }, 'unknown timed_out'],
  ['redirects', 'redirect', 'unreachable protocol_error'],
  ['answers 500', { status: 500, body: 'oops' }, 'unreachable service_unavailable'],
  ['answers 502', { status: 502, body: '<html>' }, 'unreachable service_unavailable'],
  ['answers 503', { status: 503 }, 'unreachable service_unavailable'],
  ['answers 400 in no form of its own', { status: 400, body: '<html>' }, 'deferred provider_deferred'],
  ['answers a status of its own', { status: 499 }, 'deferred provider_deferred'],
] as const

for (const [name, answer, expected] of HOSTILE) {
  test(`a provider that ${name}: ${expected}`, async (t) => {
    const standIn = await startStandIn(t, 'resend', { onRequest: () => answer })
    const transport = openFor(t, 'resend', standIn.url, { timeouts: SHORT })
    assert.equal(verdict(await transport.send(toOne(1))), expected)
    assert.equal(standIn.requests.length, 1)
  })
}

test('a redirect takes neither the key nor the mail anywhere', async (t) => {
  const elsewhere = await startStandIn(t, 'resend')
  const standIn = await startStandIn(t, 'resend', {
    onRequest: () => ({ status: 308, headers: { location: `${elsewhere.url}/emails` } }),
  })
  assert.equal(verdict(await openFor(t, 'resend', standIn.url).send(toOne(1))), 'unreachable protocol_error')
  assert.equal(elsewhere.requests.length, 0)
})

test('a status that refuses stands, though its body never comes', async (t) => {
  const standIn = await startStandIn(t, 'postmark', {
    onRequest: () => ({ status: 429, headers: { 'retry-after': '9', 'content-length': '50' }, body: '{' }),
  })
  const outcome = await openFor(t, 'postmark', standIn.url, { timeouts: SHORT }).send(toOne(1))
  assert.equal(verdict(outcome), 'unreachable throttled')
  assert.deepEqual(outcome.rate, { pauseMs: 9_000 })
})

test('a request that broke off before its end was not accepted', async (t) => {
  const standIn = await startStandIn(t, 'mailgun', {
    onConnection: (socket) => socket.once('data', () => socket.resetAndDestroy()),
  })
  // More than the buffers of both sides hold.
  const big = outgoing({ text: 'x'.repeat(70).concat('\n').repeat(300_000) })
  assert.equal(verdict(await openFor(t, 'mailgun', standIn.url).send(big)), 'unreachable connection_lost')
  assert.equal(standIn.requests.length, 0)
})

test('a provider that stops reading does not hold a send for ever, and has accepted nothing', async (t) => {
  const big = outgoing({ text: 'x'.repeat(70).concat('\n').repeat(300_000) })
  const server = createServer((socket) => socket.pause()).listen(0, '127.0.0.1')
  t.after(() => server.close())
  await new Promise((resolve) => server.once('listening', resolve))
  const { port } = server.address() as { port: number }
  const transport = openFor(t, 'mailgun', `http://127.0.0.1:${port}`, { timeouts: SHORT })
  assert.equal(verdict(await transport.send(big)), 'unreachable timed_out')
})

test('nobody listening, a name that does not exist and a server without TLS are unreachable', async (t) => {
  const server = createServer().listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  const { port } = server.address() as { port: number }
  await new Promise((resolve) => server.close(resolve))
  const refused = await openFor(t, 'resend', `http://127.0.0.1:${port}`).send(toOne(1))
  assert.equal(verdict(refused), 'unreachable connect_failed')
  const nowhere = await openFor(t, 'resend', `https://${'x'.repeat(64)}.test`).send(toOne(1))
  assert.match(verdict(nowhere), /^unreachable (?:dns_failed|connect_failed)$/)
  const plain = await startSmtpSink(t)
  const noTls = await openFor(t, 'resend', `https://${plain.host}`).send(toOne(1))
  assert.equal(verdict(noTls), 'unreachable tls_failed')
})

test('a certificate that nobody signed stops the mail', async (t) => {
  const standIn = await startStandIn(t, 'resend', { tls: true })
  assert.equal(verdict(await openFor(t, 'resend', standIn.url).send(toOne(1))), 'unreachable tls_failed')
  assert.equal(standIn.requests.length, 0)
})

test('a server that accepts the connection and no handshake does not hold a send for ever', async (t) => {
  const server = createServer((socket) => socket.resume()).listen(0, '127.0.0.1')
  t.after(() => server.close())
  await new Promise((resolve) => server.once('listening', resolve))
  const { port } = server.address() as { port: number }
  const transport = openFor(t, 'resend', `https://127.0.0.1:${port}`, { timeouts: SHORT })
  assert.equal(verdict(await transport.send(toOne(1))), 'unreachable timed_out')
})

test('one connection carries one mail after the other', async (t) => {
  const standIn = await startStandIn(t, 'resend')
  const transport = openFor(t, 'resend', standIn.url)
  for (let i = 0; i < 20; i += 1) assert.equal(verdict(await transport.send(toOne(i))), 'accepted')
  assert.equal(standIn.connections.total, 1)
})

test('many sends at once share the connections allowed, and all of those are used', async (t) => {
  const standIn = await startStandIn(t, 'sendgrid')
  const transport = openFor(t, 'sendgrid', standIn.url, { maxConnections: 3 })
  const outcomes = await Promise.all(Array.from({ length: 60 }, (_, i) => transport.send(toOne(i))))
  assert.deepEqual([...new Set(outcomes.map(verdict))], ['accepted'])
  assert.deepEqual([standIn.connections.total, standIn.connections.most], [3, 3])
})

test('a kept connection that the provider resets under a request leaves it unknown, and is not used again', async (t) => {
  const standIn = await startStandIn(t, 'resend', {
    onRequest: (_, count) => (count === 2 ? 'reset' : undefined),
  })
  const transport = openFor(t, 'resend', standIn.url)
  const verdicts = []
  for (let i = 0; i < 3; i += 1) verdicts.push(verdict(await transport.send(toOne(i))))
  assert.deepEqual(verdicts, ['accepted', 'unknown connection_lost', 'accepted'])
  assert.equal(standIn.requests.length, 3)
})

test('after an answer that was not read to its end the connection is left', async (t) => {
  const standIn = await startStandIn(t, 'resend', {
    onRequest: (_, count) => (count === 1 ? 'huge-body' : undefined),
  })
  const transport = openFor(t, 'resend', standIn.url)
  assert.equal(verdict(await transport.send(toOne(1))), 'unknown protocol_error')
  assert.equal(verdict(await transport.send(toOne(2))), 'accepted')
  assert.equal(standIn.connections.total, 2)
})

test('close lets a send in flight finish, then ends every connection and takes no more mail', async (t) => {
  const held = Promise.withResolvers<undefined>()
  const standIn = await startStandIn(t, 'postmark', { onRequest: () => held.promise })
  const transport = openFor(t, 'postmark', standIn.url)
  const inFlight = transport.send(toOne(1))
  await standIn.waitForRequests(1)
  const closed = transport.close()
  assert.equal(verdict(await transport.send(toOne(2))), 'unreachable transport_closed')
  held.resolve(undefined)
  assert.equal(verdict(await inFlight), 'accepted')
  await closed
  await standIn.waitUntilQuiet()
})

test('an aborted send ends at once: unknown when it was handed over, unsent while it waits or before', async (t) => {
  const standIn = await startStandIn(t, 'postmark', { onRequest: () => 'hang' })
  const transport = openFor(t, 'postmark', standIn.url, { maxConnections: 1 })
  const abort = new AbortController()
  const first = transport.send(toOne(1), abort.signal)
  const second = transport.send(toOne(2), abort.signal)
  await standIn.waitForRequests(1)
  abort.abort()
  assert.equal(verdict(await first), 'unknown aborted')
  assert.equal(verdict(await second), 'unreachable aborted')
  assert.equal(verdict(await transport.send(toOne(3), abort.signal)), 'unreachable aborted')
  assert.equal(standIn.requests.length, 1)
})

test('what the provider says is stored without control characters, and without our key', async (t) => {
  const message = `Key ${STAND_IN_KEY} is\u0000\u001b[31m wrong\r\n${'x'.repeat(5_000)}`
  const standIn = await startStandIn(t, 'resend', {
    onRequest: () => ({ status: 403, body: { name: 'invalid_api_key', message } }),
  })
  const outcome = await openFor(t, 'resend', standIn.url).send(toOne(1))
  assert.equal(verdict(outcome), 'unreachable auth_failed')
  const reason = outcome.kind === 'unreachable' ? outcome.reason : ''
  assert.match(reason, /^Key \[secret\] is \[31m wrong x+$/)
  assert.ok(reason.length <= 500)
})

test('a connection at rest is given up before the provider gives it up', async (t) => {
  const standIn = await startStandIn(t, 'resend')
  assert.equal(verdict(await openFor(t, 'resend', standIn.url).send(toOne(1))), 'accepted')
  assert.equal(standIn.connections.open, 1)
  await standIn.waitUntilQuiet()
})

test('over TLS a connection carries one mail after the other, and a reset after the request is unknown', async (t) => {
  const standIn = await startStandIn(t, 'resend', {
    tls: true,
    onRequest: (_, count) => (count === 3 ? 'reset' : undefined),
  })
  const client = new HttpClient({
    baseUrl: new URL(standIn.url),
    maxConnections: 1,
    ca: STAND_IN_CERTIFICATE,
  })
  const transport = createApiTransport(resendApi({ apiKey: STAND_IN_KEY }), client, MACHINE_CLOCK)
  t.after(() => transport.close())
  const verdicts = []
  for (let i = 0; i < 3; i += 1) verdicts.push(verdict(await transport.send(toOne(i))))
  assert.deepEqual(verdicts, ['accepted', 'accepted', 'unknown connection_lost'])
  assert.equal(standIn.connections.total, 1)
})

test('a handshake that the server breaks off is unreachable', async (t) => {
  const standIn = await startStandIn(t, 'resend', {
    tls: true,
    onConnection: (socket) => socket.once('data', () => socket.resetAndDestroy()),
  })
  const outcome = await openFor(t, 'resend', standIn.url).send(toOne(1))
  assert.match(verdict(outcome), /^unreachable (?:connection_lost|tls_failed)$/)
})
