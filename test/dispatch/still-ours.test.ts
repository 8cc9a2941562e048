/** A mail whose claim may be lost is not handed over: neither over SMTP nor to an API, however large. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { startStandIn } from '../support/provider-stand-ins.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'
import { openFor, toOne } from './http/outgoing-mail.ts'
import { connect, ENVELOPE, MAIL, verdict } from './smtp-sends.ts'

const LARGE = 'x'.repeat(70).concat('\r\n').repeat(1_000)

for (const [size, text] of [
  ['small', 'Hello'],
  ['large', LARGE],
] as const) {
  test(`SMTP, a ${size} mail: not its end unless it is ours, and the next one gets through`, async (t) => {
    const sink = await startSmtpSink(t)
    const transport = connect(t, { ...sink, maxConnections: 1 })
    const outgoing = { mail: { ...MAIL, text }, envelope: ENVELOPE }
    assert.equal(verdict(await transport.send(outgoing, undefined, () => false)), 'unreachable claim_lost')
    const late = transport.send(outgoing, undefined, () => Promise.resolve(false))
    assert.equal(verdict(await late), 'unreachable claim_lost')
    assert.equal(sink.mails.length, 0)
    const ours = transport.send(outgoing, undefined, () => Promise.resolve(true))
    assert.equal(verdict(await ours), 'accepted')
    assert.equal(sink.mails.length, 1)
  })
}

test('SMTP: a send that was cut off while its claim was asked about leaves the next one alone', async (t) => {
  const sink = await startSmtpSink(t)
  const transport = connect(t, { ...sink, maxConnections: 1 })
  const asked = Promise.withResolvers<void>()
  const answer = Promise.withResolvers<boolean>()
  const abort = new AbortController()
  const cut = transport.send({ mail: MAIL, envelope: ENVELOPE }, abort.signal, () => {
    asked.resolve()
    return answer.promise
  })
  await asked.promise
  abort.abort()
  assert.equal(verdict(await cut), 'unreachable aborted')
  answer.resolve(true)
  assert.equal(verdict(await transport.send({ mail: MAIL, envelope: ENVELOPE })), 'accepted')
  assert.equal(sink.mails.length, 1)
})

test('an API gets no whole request of a mail that may be of others', async (t) => {
  const server = await startStandIn(t, 'resend')
  const transport = openFor(t, 'resend', server.url)
  assert.equal(verdict(await transport.send(toOne(1), undefined, () => false)), 'unreachable claim_lost')
  const late = await transport.send(toOne(1), undefined, () => Promise.resolve(false))
  assert.equal(verdict(late), 'unreachable claim_lost')
  const batch = await transport.batch?.send([toOne(1), toOne(2)], undefined, () => false)
  assert.deepEqual(batch?.map(verdict), ['unreachable claim_lost', 'unreachable claim_lost'])
  assert.equal(server.requests.length, 0)
  assert.equal(verdict(await transport.send(toOne(1), undefined, () => true)), 'accepted')
})
