import assert from 'node:assert/strict'
import { createServer } from 'node:net'
import { test } from 'node:test'
import { composeMail } from '../../src/dispatch/compose.ts'
import { startRawSmtp, startSmtpSink } from '../support/smtp-sink.ts'
import { connect, ENVELOPE, handedOver, MAIL, OUTGOING, SHORT, verdict } from './smtp-sends.ts'

test('a mail arrives byte for byte, at the recipients of the envelope and no others', async (t) => {
  const sink = await startSmtpSink(t)
  const mail = { ...MAIL, subject: 'Größe', text: '.\n..two\nlast line .' }
  const envelope = { from: 'bounce@shop.test', to: ['a@b.test', 'c@d.test'] }
  const outcome = await connect(t, sink).send({ mail, envelope })
  assert.equal(outcome.kind, 'accepted')
  assert.deepEqual(sink.mails, [{ ...envelope, raw: composeMail(mail).toBuffer() }])
})

test('a server without PIPELINING gets the same mail', async (t) => {
  const sink = await startSmtpSink(t, { pipelining: false })
  assert.equal(verdict(await connect(t, sink).send(OUTGOING)), 'accepted')
  assert.deepEqual(sink.mails, [{ ...ENVELOPE, raw: composeMail(MAIL).toBuffer() }])
})

test('the null sender can send', async (t) => {
  const sink = await startSmtpSink(t)
  assert.equal(
    verdict(await connect(t, sink).send({ mail: MAIL, envelope: { ...ENVELOPE, from: '' } })),
    'accepted',
  )
  assert.equal(sink.mails[0]?.from, '')
})

test('a large mail arrives whole', async (t) => {
  const sink = await startSmtpSink(t)
  const mail = { ...MAIL, text: `.${'x'.repeat(70)}\n`.repeat(20_000) }
  assert.equal(verdict(await connect(t, sink).send({ mail, envelope: ENVELOPE })), 'accepted')
  assert.ok(sink.mails[0]?.raw.equals(composeMail(mail).toBuffer()))
})

test('one connection carries one mail after the other', async (t) => {
  const sink = await startSmtpSink(t)
  const transport = connect(t, sink)
  for (let i = 0; i < 20; i += 1) assert.equal(verdict(await transport.send(OUTGOING)), 'accepted')
  assert.equal(sink.connections.total, 1)
})

test('a connection is changed after 500 mails', async (t) => {
  const sink = await startSmtpSink(t)
  const transport = connect(t, { ...sink, maxConnections: 1 })
  await Promise.all(Array.from({ length: 501 }, () => transport.send(OUTGOING)))
  assert.equal(sink.mails.length, 501)
  assert.equal(sink.connections.total, 2)
})

test('many sends at once share the connections allowed, and all of those are used', async (t) => {
  const sink = await startSmtpSink(t)
  const transport = connect(t, { ...sink, maxConnections: 3 })
  const outcomes = await Promise.all(Array.from({ length: 60 }, () => transport.send(OUTGOING)))
  assert.deepEqual([...new Set(outcomes.map(verdict))], ['accepted'])
  assert.equal(sink.mails.length, 60)
  assert.deepEqual([sink.connections.total, sink.connections.most], [3, 3])
})

test('close lets a send in flight finish, then ends every connection and takes no more mail', async (t) => {
  const held = Promise.withResolvers<undefined>()
  const arrived = Promise.withResolvers<void>()
  const onMail = () => {
    arrived.resolve()
    return held.promise
  }
  const sink = await startSmtpSink(t, { onMail })
  const transport = connect(t, { ...sink, maxConnections: 1 })
  const inFlight = transport.send(OUTGOING)
  const waiting = transport.send(OUTGOING)
  await arrived.promise
  const closed = transport.close()
  assert.equal(verdict(await waiting), 'unreachable transport_closed')
  assert.equal(verdict(await transport.send(OUTGOING)), 'unreachable transport_closed')
  held.resolve(undefined)
  assert.equal(verdict(await inFlight), 'accepted')
  await closed
  await sink.waitUntilQuiet()
})

test('close ends idle connections', async (t) => {
  const sink = await startSmtpSink(t)
  const transport = connect(t, sink)
  await Promise.all([transport.send(OUTGOING), transport.send(OUTGOING)])
  assert.equal(sink.connections.open, 2)
  await transport.close()
  await sink.waitUntilQuiet()
})

test('close does not wait for a server that does not say goodbye', async (t) => {
  const server = await startRawSmtp(t, [...handedOver, '250 Ok\r\n'])
  const transport = connect(t, { url: `${server.url}?${SHORT}` })
  assert.equal(verdict(await transport.send(OUTGOING)), 'accepted')
  await transport.close()
  assert.match(server.received(), /QUIT\r\n$/)
  await server.waitUntilQuiet()
})

test('a mail outlives the server restarting between two sends', async (t) => {
  const sink = await startSmtpSink(t)
  const transport = connect(t, sink)
  await transport.send(OUTGOING)
  await sink.dropConnections()
  assert.equal(verdict(await transport.send(OUTGOING)), 'accepted')
  assert.equal(sink.mails.length, 2)
})

test('some recipients refused: the others get the mail, and each refusal is told', async (t) => {
  const onRecipient = (address: string) => {
    if (address === 'gone@mail.test') return { code: 550, text: '5.1.1 No such user' }
    return address === 'full@mail.test' ? { code: 452, text: '4.2.2 Mailbox full' } : undefined
  }
  for (const pipelining of [true, false]) {
    const sink = await startSmtpSink(t, { onRecipient, pipelining })
    const to = ['gone@mail.test', 'ann@mail.test', 'full@mail.test']
    const outcome = await connect(t, sink).send({ mail: MAIL, envelope: { ...ENVELOPE, to } })
    assert.ok(outcome.kind === 'accepted')
    assert.deepEqual(sink.mails[0]?.to, ['ann@mail.test'])
    assert.deepEqual(outcome.refused, [
      {
        recipient: 'gone@mail.test',
        permanent: true,
        code: 'bad_recipient',
        reply: '550 5.1.1 No such user',
        smtpCode: 550,
        enhancedCode: '5.1.1',
      },
      {
        recipient: 'full@mail.test',
        permanent: false,
        code: 'mailbox_full',
        reply: '452 4.2.2 Mailbox full',
        smtpCode: 452,
        enhancedCode: '4.2.2',
      },
    ])
  }
})

test('a pause asked for while one recipient is refused is told with the mail that the others got', async (t) => {
  const onRecipient = (address: string) =>
    address === 'bob@mail.test'
      ? { code: 451, text: '4.7.1 Rate limit exceeded, try again in 2 minutes' }
      : undefined
  const sink = await startSmtpSink(t, { onRecipient })
  const to = ['ann@mail.test', 'bob@mail.test']
  const outcome = await connect(t, sink).send({ mail: MAIL, envelope: { ...ENVELOPE, to } })
  assert.ok(outcome.kind === 'accepted')
  assert.deepEqual(
    outcome.refused.map(({ recipient, permanent, code }) => ({ recipient, permanent, code })),
    [{ recipient: 'bob@mail.test', permanent: false, code: 'throttled' }],
  )
  assert.deepEqual(outcome.rate, { pauseMs: 120_000 })
})

test('all recipients refused is temporary if one refusal is', async (t) => {
  const onRecipient = (address: string) =>
    address === 'gone@mail.test'
      ? { code: 550, text: '5.1.1 No such user' }
      : { code: 451, text: '4.3.0 Later' }
  const sink = await startSmtpSink(t, { onRecipient })
  const outcome = await connect(t, sink).send({
    mail: MAIL,
    envelope: { ...ENVELOPE, to: ['ann@mail.test', 'gone@mail.test'] },
  })
  assert.equal(verdict(outcome), 'deferred smtp_deferred')
})

test('a refusal carries the words and codes of the server, and the connection serves the next mail', async (t) => {
  const refusals = [{ code: 554, text: '5.6.0 Malformed' }, { code: 451, text: '4.3.0 Later' }, undefined]
  const sink = await startSmtpSink(t, { onMail: () => refusals.shift() })
  const transport = connect(t, { ...sink, maxConnections: 1 })
  assert.deepEqual(await transport.send(OUTGOING), {
    kind: 'refused',
    code: 'content_refused',
    reply: '554 5.6.0 Malformed',
    smtpCode: 554,
    enhancedCode: '5.6.0',
  })
  assert.equal(verdict(await transport.send(OUTGOING)), 'deferred smtp_deferred')
  assert.equal(verdict(await transport.send(OUTGOING)), 'accepted')
  assert.equal(sink.connections.total, 1)
})

test('a refused sender is told from a refused recipient', async (t) => {
  const sender = await startSmtpSink(t, { onMailFrom: () => ({ code: 550, text: 'No' }) })
  assert.equal(verdict(await connect(t, sender).send(OUTGOING)), 'refused sender_refused')
  const recipient = await startSmtpSink(t, { onRecipient: () => ({ code: 550, text: 'No' }) })
  assert.equal(verdict(await connect(t, recipient).send(OUTGOING)), 'refused bad_recipient')
})

test('a mail over the size that the server announced is refused without being sent', async (t) => {
  const sink = await startSmtpSink(t, { maxBytes: 1_000 })
  const outcome = await connect(t, sink).send({
    mail: { ...MAIL, text: 'x\n'.repeat(1_000) },
    envelope: ENVELOPE,
  })
  assert.equal(verdict(outcome), 'refused message_too_large')
  assert.ok(outcome.kind === 'refused')
  assert.match(outcome.reply ?? '', /^The mail has \d{4,} bytes, more than the relay takes: .*\b1000\b/)
})

test('an envelope that could be read as more than it says is not sent', async (t) => {
  const sink = await startSmtpSink(t)
  const transport = connect(t, sink)
  const evil = [
    'a@b.test>\r\nRCPT TO:<x@evil.test',
    'a@b.test x',
    '<a@b.test>',
    ' a@b.test',
    'a@b.test\n',
    'ä@b.test',
    '',
  ]
  for (const address of evil) {
    assert.equal(
      verdict(await transport.send({ mail: MAIL, envelope: { ...ENVELOPE, to: [address] } })),
      'refused invalid_envelope',
    )
    if (address === '') continue
    assert.equal(
      verdict(await transport.send({ mail: MAIL, envelope: { ...ENVELOPE, from: address } })),
      'refused invalid_envelope',
    )
  }
  assert.equal(
    verdict(await transport.send({ mail: MAIL, envelope: { ...ENVELOPE, to: [] } })),
    'refused invalid_envelope',
  )
  assert.equal(
    verdict(await transport.send({ mail: { ...MAIL, subject: 'a\n.\nMAIL' }, envelope: ENVELOPE })),
    'refused malformed_message',
  )
  assert.equal(sink.connections.total, 0)
})

test('a user and password of the URL are used, percent-decoded', async (t) => {
  const sink = await startSmtpSink(t, { auth: { user: 'us@er', pass: 'p:/ä' }, tls: 'starttls' })
  const url = (pass: string) => `smtp://us%40er:${encodeURIComponent(pass)}@${sink.host}?tls_verify=false`
  assert.equal(verdict(await connect(t, { url: url('p:/ä') }).send(OUTGOING)), 'accepted')
  assert.equal(verdict(await connect(t, { url: url('wrong') }).send(OUTGOING)), 'unreachable auth_failed')
})

test('a password is not sent in the clear, unless the URL says so', async (t) => {
  const sink = await startSmtpSink(t, { auth: { user: 'user', pass: 'pass' } })
  const url = `smtp://user:pass@${sink.host}`
  assert.equal(verdict(await connect(t, { url }).send(OUTGOING)), 'unreachable auth_needs_tls')
  assert.equal(verdict(await connect(t, { url: `${url}?tls=none` }).send(OUTGOING)), 'accepted')
})

test('a server that offers no authentication gets no mail from a URL with a user', async (t) => {
  const sink = await startSmtpSink(t)
  const url = `smtp://user:pass@${sink.host}?tls=none`
  assert.equal(verdict(await connect(t, { url }).send(OUTGOING)), 'unreachable auth_unavailable')
})

test('a certificate that nobody signed stops the mail, unless the URL accepts any', async (t) => {
  for (const tls of ['starttls', 'implicit'] as const) {
    const { url } = await startSmtpSink(t, { tls })
    assert.equal(verdict(await connect(t, { url }).send(OUTGOING)), 'unreachable tls_failed', tls)
    const lenient = connect(t, { url: `${url}?tls_verify=false` })
    assert.equal(verdict(await lenient.send(OUTGOING)), 'accepted', tls)
    assert.equal(verdict(await lenient.send(OUTGOING)), 'accepted', tls)
  }
})

test('where TLS is required, a server without it gets no mail', async (t) => {
  const { url, mails } = await startSmtpSink(t)
  assert.equal(
    verdict(await connect(t, { url: `${url}?tls=required` }).send(OUTGOING)),
    'unreachable tls_failed',
  )
  assert.equal(mails.length, 0)
})

test('tls=none sends in the clear though STARTTLS is offered', async (t) => {
  const { url } = await startSmtpSink(t, { tls: 'starttls' })
  assert.equal(verdict(await connect(t, { url: `${url}?tls=none` }).send(OUTGOING)), 'accepted')
})

test('nobody listening, and a name that does not exist, are unreachable', async (t) => {
  const server = createServer().listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  const address = server.address()
  const port = typeof address === 'object' ? address?.port : undefined
  await new Promise((resolve) => server.close(resolve))
  const refused = await connect(t, { url: `smtp://127.0.0.1:${port}` }).send(OUTGOING)
  assert.equal(verdict(refused), 'unreachable connect_failed')
  // A label over 63 characters cannot be in any DNS, so no server needs to be asked.
  const nowhere = await connect(t, { url: `smtp://${'x'.repeat(64)}.test:25` }).send(OUTGOING)
  assert.equal(verdict(nowhere), 'unreachable dns_failed')
})
