import assert from 'node:assert/strict'
import { createServer, type Socket } from 'node:net'
import { type TestContext, test } from 'node:test'
import { composeMail } from '../../src/dispatch/compose.ts'
import { createSmtpTransport, type SmtpOptions } from '../../src/dispatch/smtp.ts'
import type { SendOutcome, Transport } from '../../src/dispatch/transport.ts'
import { parseSmtpUrl } from '../../src/smtp-url.ts'
import { POLITE, type RawStep, startRawSmtp, startSmtpSink } from '../support/smtp-sink.ts'

const ENVELOPE = { from: 'shop@shop.test', to: ['ann@mail.test'] }
const RAW = Buffer.from('Subject: Hi\r\n\r\nHello\r\n')
/** Short, because a few tests wait for them; all others end by an answer. */
const SHORT = { connectMs: 300, greetingMs: 200, socketMs: 200 }

const { greeting, mail, recipient, data, content } = POLITE
const before = {
  mail: greeting,
  recipient: [...greeting, ...mail],
  data: [...greeting, ...mail, ...recipient],
}
const asked = [...before.data, ...data]
const handedOver = [...asked, ...content]
const hangUp = (socket: Socket) => socket.end()
const reset = (socket: Socket) => socket.resetAndDestroy()

function connect(t: TestContext, options: Partial<SmtpOptions> & { url: string }): Transport {
  const transport = createSmtpTransport({ maxConnections: 2, ...options })
  t.after(() => transport.close())
  return transport
}

function verdict(outcome: SendOutcome): string {
  return outcome.kind === 'accepted' ? 'accepted' : `${outcome.kind} ${outcome.code}`
}

test('a mail arrives byte for byte, at the recipients of the envelope and no others', async (t) => {
  const sink = await startSmtpSink(t)
  const raw = composeMail({
    id: '0199b1a2-7c1e-7000-8000-000000000001',
    messageId: '<1@shop.test>',
    date: new Date(0),
    from: { address: 'shop@shop.test' },
    to: [{ address: 'shown@mail.test' }],
    cc: [],
    replyTo: [],
    subject: 'Größe',
    headers: {},
    text: '.\n..two\nlast line .',
  })
  const outcome = await connect(t, sink).send({ from: 'bounce@shop.test', to: ['a@b.test', 'c@d.test'] }, raw)
  assert.equal(outcome.kind, 'accepted')
  assert.deepEqual(sink.mails, [{ from: 'bounce@shop.test', to: ['a@b.test', 'c@d.test'], raw }])
})

test('a server without PIPELINING gets the same mail', async (t) => {
  const sink = await startSmtpSink(t, { pipelining: false })
  assert.equal(verdict(await connect(t, sink).send(ENVELOPE, RAW)), 'accepted')
  assert.deepEqual(sink.mails, [{ ...ENVELOPE, raw: RAW }])
})

test('the null sender can send', async (t) => {
  const sink = await startSmtpSink(t)
  assert.equal(verdict(await connect(t, sink).send({ ...ENVELOPE, from: '' }, RAW)), 'accepted')
  assert.equal(sink.mails[0]?.from, '')
})

test('a large mail arrives whole', async (t) => {
  const sink = await startSmtpSink(t)
  const raw = Buffer.from(`Subject: Big\r\n\r\n${`.${'x'.repeat(70)}\r\n`.repeat(20_000)}`)
  assert.equal(verdict(await connect(t, sink).send(ENVELOPE, raw)), 'accepted')
  assert.ok(sink.mails[0]?.raw.equals(raw))
})

test('one connection carries one mail after the other', async (t) => {
  const sink = await startSmtpSink(t)
  const transport = connect(t, sink)
  for (let i = 0; i < 20; i += 1) assert.equal(verdict(await transport.send(ENVELOPE, RAW)), 'accepted')
  assert.equal(sink.connections.total, 1)
})

test('a connection is changed after 500 mails', async (t) => {
  const sink = await startSmtpSink(t)
  const transport = connect(t, { ...sink, maxConnections: 1 })
  await Promise.all(Array.from({ length: 501 }, () => transport.send(ENVELOPE, RAW)))
  assert.equal(sink.mails.length, 501)
  assert.equal(sink.connections.total, 2)
})

test('many sends at once share the connections allowed, and all of those are used', async (t) => {
  const sink = await startSmtpSink(t)
  const transport = connect(t, { ...sink, maxConnections: 3 })
  const outcomes = await Promise.all(Array.from({ length: 60 }, () => transport.send(ENVELOPE, RAW)))
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
  const inFlight = transport.send(ENVELOPE, RAW)
  const waiting = transport.send(ENVELOPE, RAW)
  await arrived.promise
  const closed = transport.close()
  assert.equal(verdict(await waiting), 'unreachable transport_closed')
  assert.equal(verdict(await transport.send(ENVELOPE, RAW)), 'unreachable transport_closed')
  held.resolve(undefined)
  assert.equal(verdict(await inFlight), 'accepted')
  await closed
  await sink.waitUntilQuiet()
})

test('close ends idle connections', async (t) => {
  const sink = await startSmtpSink(t)
  const transport = connect(t, sink)
  await Promise.all([transport.send(ENVELOPE, RAW), transport.send(ENVELOPE, RAW)])
  assert.equal(sink.connections.open, 2)
  await transport.close()
  await sink.waitUntilQuiet()
})

test('close does not wait for a server that does not say goodbye', async (t) => {
  const server = await startRawSmtp(t, [...handedOver, '250 Ok\r\n'])
  const transport = connect(t, { url: server.url, timeouts: SHORT })
  assert.equal(verdict(await transport.send(ENVELOPE, RAW)), 'accepted')
  await transport.close()
  assert.match(server.received(), /QUIT\r\n$/)
  await server.waitUntilQuiet()
})

test('a mail outlives the server restarting between two sends', async (t) => {
  const sink = await startSmtpSink(t)
  const transport = connect(t, sink)
  await transport.send(ENVELOPE, RAW)
  await sink.dropConnections()
  assert.equal(verdict(await transport.send(ENVELOPE, RAW)), 'accepted')
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
    const outcome = await connect(t, sink).send({ ...ENVELOPE, to }, RAW)
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

test('all recipients refused is temporary if one refusal is', async (t) => {
  const onRecipient = (address: string) =>
    address === 'gone@mail.test'
      ? { code: 550, text: '5.1.1 No such user' }
      : { code: 451, text: '4.3.0 Later' }
  const sink = await startSmtpSink(t, { onRecipient })
  const outcome = await connect(t, sink).send({ ...ENVELOPE, to: ['ann@mail.test', 'gone@mail.test'] }, RAW)
  assert.equal(verdict(outcome), 'deferred smtp_deferred')
})

test('a refusal carries the words and codes of the server, and the connection serves the next mail', async (t) => {
  const refusals = [{ code: 554, text: '5.6.0 Malformed' }, { code: 451, text: '4.3.0 Later' }, undefined]
  const sink = await startSmtpSink(t, { onMail: () => refusals.shift() })
  const transport = connect(t, { ...sink, maxConnections: 1 })
  assert.deepEqual(await transport.send(ENVELOPE, RAW), {
    kind: 'refused',
    code: 'content_refused',
    reply: '554 5.6.0 Malformed',
    smtpCode: 554,
    enhancedCode: '5.6.0',
  })
  assert.equal(verdict(await transport.send(ENVELOPE, RAW)), 'deferred smtp_deferred')
  assert.equal(verdict(await transport.send(ENVELOPE, RAW)), 'accepted')
  assert.equal(sink.connections.total, 1)
})

test('a refused sender is told from a refused recipient', async (t) => {
  const sender = await startSmtpSink(t, { onMailFrom: () => ({ code: 550, text: 'No' }) })
  assert.equal(verdict(await connect(t, sender).send(ENVELOPE, RAW)), 'refused sender_refused')
  const recipient = await startSmtpSink(t, { onRecipient: () => ({ code: 550, text: 'No' }) })
  assert.equal(verdict(await connect(t, recipient).send(ENVELOPE, RAW)), 'refused bad_recipient')
})

test('a mail over the size that the server announced is refused without being sent', async (t) => {
  const sink = await startSmtpSink(t, { maxBytes: 1_000 })
  const outcome = await connect(t, sink).send(
    ENVELOPE,
    Buffer.from(`Subject: Hi\r\n\r\n${'x\r\n'.repeat(1_000)}`),
  )
  assert.equal(verdict(outcome), 'refused message_too_large')
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
      verdict(await transport.send({ ...ENVELOPE, to: [address] }, RAW)),
      'refused invalid_envelope',
    )
    if (address === '') continue
    assert.equal(
      verdict(await transport.send({ ...ENVELOPE, from: address }, RAW)),
      'refused invalid_envelope',
    )
  }
  assert.equal(verdict(await transport.send({ ...ENVELOPE, to: [] }, RAW)), 'refused invalid_envelope')
  assert.equal(
    verdict(await transport.send(ENVELOPE, Buffer.from('a\n.\nMAIL'))),
    'refused malformed_message',
  )
  assert.equal(sink.connections.total, 0)
})

test('a user and password of the URL are used, percent-decoded', async (t) => {
  const sink = await startSmtpSink(t, { auth: { user: 'us@er', pass: 'p:/ä' }, tls: 'starttls' })
  const url = (pass: string) => `smtp://us%40er:${encodeURIComponent(pass)}@${sink.host}?tls_verify=false`
  assert.equal(verdict(await connect(t, { url: url('p:/ä') }).send(ENVELOPE, RAW)), 'accepted')
  assert.equal(
    verdict(await connect(t, { url: url('wrong') }).send(ENVELOPE, RAW)),
    'unreachable auth_failed',
  )
})

test('a password is not sent in the clear, unless the URL says so', async (t) => {
  const sink = await startSmtpSink(t, { auth: { user: 'user', pass: 'pass' } })
  const url = `smtp://user:pass@${sink.host}`
  assert.equal(verdict(await connect(t, { url }).send(ENVELOPE, RAW)), 'unreachable auth_needs_tls')
  assert.equal(verdict(await connect(t, { url: `${url}?tls=none` }).send(ENVELOPE, RAW)), 'accepted')
})

test('a server that offers no authentication gets no mail from a URL with a user', async (t) => {
  const sink = await startSmtpSink(t)
  const url = `smtp://user:pass@${sink.host}?tls=none`
  assert.equal(verdict(await connect(t, { url }).send(ENVELOPE, RAW)), 'unreachable auth_unavailable')
})

test('a certificate that nobody signed stops the mail, unless the URL accepts any', async (t) => {
  for (const tls of ['starttls', 'implicit'] as const) {
    const { url } = await startSmtpSink(t, { tls })
    assert.equal(verdict(await connect(t, { url }).send(ENVELOPE, RAW)), 'unreachable tls_failed', tls)
    const lenient = connect(t, { url: `${url}?tls_verify=false` })
    assert.equal(verdict(await lenient.send(ENVELOPE, RAW)), 'accepted', tls)
    assert.equal(verdict(await lenient.send(ENVELOPE, RAW)), 'accepted', tls)
  }
})

test('where TLS is required, a server without it gets no mail', async (t) => {
  const { url, mails } = await startSmtpSink(t)
  assert.equal(
    verdict(await connect(t, { url: `${url}?tls=required` }).send(ENVELOPE, RAW)),
    'unreachable tls_failed',
  )
  assert.equal(mails.length, 0)
})

test('tls=none sends in the clear though STARTTLS is offered', async (t) => {
  const { url } = await startSmtpSink(t, { tls: 'starttls' })
  assert.equal(verdict(await connect(t, { url: `${url}?tls=none` }).send(ENVELOPE, RAW)), 'accepted')
})

test('nobody listening, and a name that does not exist, are unreachable', async (t) => {
  const server = createServer().listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  const address = server.address()
  const port = typeof address === 'object' ? address?.port : undefined
  await new Promise((resolve) => server.close(resolve))
  const refused = await connect(t, { url: `smtp://127.0.0.1:${port}` }).send(ENVELOPE, RAW)
  assert.equal(verdict(refused), 'unreachable connect_failed')
  // A label over 63 characters cannot be in any DNS, so no server needs to be asked.
  const nowhere = await connect(t, { url: `smtp://${'x'.repeat(64)}.test:25` }).send(ENVELOPE, RAW)
  assert.equal(verdict(nowhere), 'unreachable dns_failed')
})

const HOSTILE: Readonly<Record<string, readonly [readonly RawStep[], string]>> = {
  'hangs up before the greeting': [[hangUp], 'unreachable connection_lost'],
  'resets after EHLO': [['220 x\r\n', { expect: /EHLO/ }, reset], 'unreachable connection_lost'],
  'greets with 421': [['421 4.3.2 Busy\r\n', hangUp], 'unreachable service_unavailable'],
  'greets with 554': [['554 No\r\n'], 'unreachable service_unavailable'],
  'greets with garbage': [['\x00\xff\xfe hello\r\n'], 'unreachable protocol_error'],
  'greets with an endless line': [['2'.repeat(200_000)], 'unreachable protocol_error'],
  'greets with endless lines': [['220-x\r\n'.repeat(50_000)], 'unreachable protocol_error'],
  'never greets': [[], 'unreachable timed_out'],
  'never answers EHLO': [['220 x\r\n'], 'unreachable timed_out'],
  'answers EHLO with 421': [
    ['220 x\r\n', { expect: /EHLO/ }, '421 Bye\r\n', hangUp],
    'unreachable service_unavailable',
  ],
  'offers STARTTLS and then speaks no TLS': [
    [
      '220 x\r\n',
      { expect: /EHLO/ },
      '250-x\r\n250 STARTTLS\r\n',
      { expect: /STARTTLS\r\n/ },
      '220 Go\r\n',
      'nonsense\r\n',
    ],
    'unreachable tls_failed',
  ],
  'hangs up after MAIL': [[...before.mail, { expect: /MAIL/ }, hangUp], 'unreachable connection_lost'],
  'answers MAIL with 421': [
    [...before.mail, { expect: /MAIL/ }, '421 Bye\r\n', hangUp],
    'unreachable service_unavailable',
  ],
  'answers MAIL with garbage': [
    [...before.mail, { expect: /MAIL/ }, 'what?\r\n'],
    'unreachable protocol_error',
  ],
  'never answers RCPT': [[...before.recipient, { expect: /RCPT/ }], 'unreachable timed_out'],
  'resets after DATA': [[...before.data, { expect: /DATA/ }, reset], 'unreachable connection_lost'],
  'answers DATA with 250': [[...before.data, { expect: /DATA/ }, '250 Ok\r\n'], 'unreachable protocol_error'],
  'answers DATA with 503': [
    [...before.data, { expect: /DATA/ }, '503 5.5.1 What?\r\n'],
    'deferred session_fault',
  ],
  'hangs up in the content': [[...asked, { expect: /Subject/ }, hangUp], 'unknown connection_lost'],
  'resets after the dot': [[...handedOver, reset], 'unknown connection_lost'],
  'never answers the dot': [[...handedOver], 'unknown timed_out'],
  'answers the dot with garbage': [[...handedOver, 'fine\r\n'], 'unknown protocol_error'],
  'answers the dot with a 2 and garbage': [[...handedOver, '2fine\r\n'], 'unknown protocol_error'],
  'answers the dot with 354': [[...handedOver, '354 More\r\n'], 'unknown protocol_error'],
  'begins an answer and hangs up': [[...handedOver, '25', hangUp], 'unknown connection_lost'],
  'begins a positive answer and hangs up': [[...handedOver, '250-Ok', hangUp], 'unknown connection_lost'],
  'answers the dot with 421': [[...handedOver, '421 Bye\r\n', hangUp], 'deferred service_unavailable'],
  'throttles after the dot': [[...handedOver, '454 Throttling failure\r\n'], 'unreachable throttled'],
  'accepts and hangs up': [[...handedOver, '250 Ok\r\n', hangUp], 'accepted'],
  'accepts and resets': [[...handedOver, '250 Ok\r\n', (socket) => setImmediate(reset, socket)], 'accepted'],
  'accepts in several lines': [[...handedOver, '250-Ok\r\n250', ' queued\r\n'], 'accepted'],
  'accepts twice': [[...handedOver, '250 Ok\r\n250 Ok\r\n'], 'accepted'],
}
for (const [does, [script, expected]] of Object.entries(HOSTILE)) {
  test(`a server that ${does}: ${expected}`, async (t) => {
    const server = await startRawSmtp(t, script)
    const outcome = await connect(t, { url: server.url, timeouts: SHORT }).send(ENVELOPE, RAW)
    assert.equal(verdict(outcome), expected)
    assert.equal(server.connections.total, 1)
  })
}

test('a server that stops reading does not hold a send for ever', async (t) => {
  const server = await startRawSmtp(t, [...asked, (socket) => socket.pause()])
  // More than the buffers of both sides hold.
  const raw = Buffer.from(`Subject: Big\r\n\r\n${`${'x'.repeat(70)}\r\n`.repeat(300_000)}`)
  const outcome = await connect(t, { url: server.url, timeouts: SHORT }).send(ENVELOPE, raw)
  assert.equal(verdict(outcome), 'unknown timed_out')
})

test('a server that trickles its answer does not hold a send for ever', async (t) => {
  const trickle = (socket: Socket) => {
    const timer = setInterval(() => socket.write('2'), 20)
    socket.once('close', () => clearInterval(timer))
  }
  const server = await startRawSmtp(t, [...handedOver, trickle])
  const outcome = await connect(t, { url: server.url, timeouts: SHORT }).send(ENVELOPE, RAW)
  assert.equal(verdict(outcome), 'unknown timed_out')
})

test('a reply is stored without its control characters', async (t) => {
  const server = await startRawSmtp(t, [
    ...before.mail,
    { expect: /MAIL/ },
    '550 5.1.8 Say\0\x1b[31mno\x07\r\n',
  ])
  const outcome = await connect(t, { url: server.url }).send(ENVELOPE, RAW)
  assert.deepEqual(outcome, {
    kind: 'refused',
    code: 'sender_refused',
    reply: '550 5.1.8 Say [31mno',
    smtpCode: 550,
    enhancedCode: '5.1.8',
  })
})

test('a connection found closed is replaced as long as nothing was sent, however it was closed', async (t) => {
  const once = [...handedOver, '250 Ok\r\n']
  const endings: readonly (readonly RawStep[])[] = [
    [{ expect: /MAIL/ }, reset],
    [{ expect: /MAIL/ }, '421 4.4.2 Idle too long\r\n', hangUp],
    [...mail, ...recipient, { expect: /DATA/ }, hangUp],
  ]
  for (const ending of endings) {
    const server = await startRawSmtp(t, (connection) => (connection === 1 ? [...once, ...ending] : once))
    const transport = connect(t, server)
    assert.equal(verdict(await transport.send(ENVELOPE, RAW)), 'accepted')
    assert.equal(verdict(await transport.send(ENVELOPE, RAW)), 'accepted')
    assert.equal(server.connections.total, 2)
  }
})

test('a mail handed over on an old connection is never sent again by itself', async (t) => {
  const server = await startRawSmtp(t, [
    ...handedOver,
    '250 Ok\r\n',
    ...mail,
    ...recipient,
    ...data,
    ...content,
    reset,
  ])
  const transport = connect(t, server)
  assert.equal(verdict(await transport.send(ENVELOPE, RAW)), 'accepted')
  assert.equal(verdict(await transport.send(ENVELOPE, RAW)), 'unknown connection_lost')
  assert.equal(server.connections.total, 1)
})

test('an aborted send ends at once, as unknown only when the mail was handed over', async (t) => {
  const stages: readonly (readonly [readonly RawStep[], RegExp, string])[] = [
    [greeting.slice(0, 1), /EHLO/, 'unreachable aborted'],
    [before.mail, /MAIL/, 'unreachable aborted'],
    [handedOver, /\r\n\.\r\n/, 'unknown aborted'],
  ]
  for (const [script, reached, expected] of stages) {
    const server = await startRawSmtp(t, script)
    const abort = new AbortController()
    const sending = connect(t, server).send(ENVELOPE, RAW, abort.signal)
    await server.waitFor(reached)
    abort.abort()
    assert.equal(verdict(await sending), expected)
    await server.waitUntilQuiet()
  }
})

test('a send aborted while it waits for its turn, or before, sends nothing', async (t) => {
  const server = await startRawSmtp(t, before.mail)
  const transport = connect(t, { url: server.url, maxConnections: 1, timeouts: SHORT })
  const first = transport.send(ENVELOPE, RAW)
  const abort = new AbortController()
  const second = transport.send(ENVELOPE, RAW, abort.signal)
  abort.abort()
  assert.equal(verdict(await second), 'unreachable aborted')
  assert.equal(verdict(await transport.send(ENVELOPE, RAW, abort.signal)), 'unreachable aborted')
  assert.equal(verdict(await first), 'unreachable timed_out')
  assert.equal(server.connections.total, 1)
})

test('a turn freed by a failure goes to the next in line', async (t) => {
  const server = await startRawSmtp(t, (connection) =>
    connection === 1 ? [...before.mail, { expect: /MAIL/ }, reset] : [...handedOver, '250 Ok\r\n'],
  )
  const transport = connect(t, { url: server.url, maxConnections: 1 })
  const outcomes = await Promise.all([transport.send(ENVELOPE, RAW), transport.send(ENVELOPE, RAW)])
  assert.deepEqual(outcomes.map(verdict), ['unreachable connection_lost', 'accepted'])
  assert.equal(server.connections.most, 1)
})

test('an SMTP URL is read with its defaults', () => {
  assert.deepEqual(parseSmtpUrl('smtp://relay.test'), {
    host: 'relay.test',
    port: 587,
    secure: false,
    tls: 'opportunistic',
    verify: true,
  })
  assert.deepEqual(parseSmtpUrl('smtps://u%40x:p%25@[::1]:2465?tls_verify=false'), {
    host: '::1',
    port: 2465,
    secure: true,
    tls: 'required',
    verify: false,
    auth: { user: 'u@x', pass: 'p%' },
  })
})

test('an SMTP URL that cannot be meant is refused, and the password is not repeated', () => {
  const wrong = [
    'http://user:secret@relay.test',
    'smtp://',
    'relay.test:25',
    'smtp://user:secret@relay.test?tls=maybe',
    'smtp://user:secret@relay.test?tls_verify=1',
    'smtp://user:secret@relay.test?pool=true',
    'smtps://user:secret@relay.test?tls=none',
    'smtp://user:secret%@relay.test',
  ]
  for (const url of wrong) {
    assert.throws(
      () => parseSmtpUrl(url),
      (error) => error instanceof Error && !error.message.includes('secret'),
      url,
    )
  }
})
