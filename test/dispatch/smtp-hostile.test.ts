import assert from 'node:assert/strict'
import type { Socket } from 'node:net'
import { test } from 'node:test'
import { POLITE, type RawStep, startRawSmtp } from '../support/smtp-sink.ts'
import {
  asked,
  before,
  connect,
  ENVELOPE,
  handedOver,
  hangUp,
  MAIL,
  OUTGOING,
  reset,
  SHORT,
  verdict,
} from './smtp-sends.ts'

const { greeting, mail, recipient, data, content } = POLITE

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
  'answers the content before it has seen any': [
    [...before.data, { expect: /DATA/ }, '354 Go ahead\r\n250 Ok\r\n'],
    'unreachable protocol_error',
  ],
  'begins to answer the content before it has seen any': [
    [...before.data, { expect: /DATA/ }, '354 Go ahead\r\n25'],
    'unreachable protocol_error',
  ],
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
    // A busy machine is slow to come to what the others are about.
    const url = expected.endsWith('timed_out') ? `${server.url}?${SHORT}` : server.url
    assert.equal(verdict(await connect(t, { url }).send(OUTGOING)), expected)
    assert.equal(server.connections.total, 1)
  })
}

test('a server that stops reading does not hold a send for ever', async (t) => {
  const server = await startRawSmtp(t, [...asked, (socket) => socket.pause()])
  // More than the buffers of both sides hold.
  const mail = { ...MAIL, text: `${'x'.repeat(70)}\n`.repeat(300_000) }
  const outcome = await connect(t, { url: `${server.url}?${SHORT}` }).send({ mail, envelope: ENVELOPE })
  assert.equal(verdict(outcome), 'unknown timed_out')
})

test('a server that trickles its answer does not hold a send for ever', async (t) => {
  const trickle = (socket: Socket) => {
    const timer = setInterval(() => socket.write('2'), 20)
    socket.once('close', () => clearInterval(timer))
  }
  const server = await startRawSmtp(t, [...handedOver, trickle])
  const outcome = await connect(t, { url: `${server.url}?${SHORT}` }).send(OUTGOING)
  assert.equal(verdict(outcome), 'unknown timed_out')
})

test('a reply is stored without its control characters', async (t) => {
  const server = await startRawSmtp(t, [
    ...before.mail,
    { expect: /MAIL/ },
    '550 5.1.8 Say\0\x1b[31mno\x07\r\n',
  ])
  const outcome = await connect(t, { url: server.url }).send(OUTGOING)
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
    assert.equal(verdict(await transport.send(OUTGOING)), 'accepted')
    assert.equal(verdict(await transport.send(OUTGOING)), 'accepted')
    assert.equal(server.connections.total, 2)
  }
})

test('a connection on which more was answered than asked has no second mail', async (t) => {
  const server = await startRawSmtp(t, [...handedOver, '250 Ok\r\n250 Ok\r\n'])
  const transport = connect(t, { url: server.url, maxConnections: 1 })
  const sends = [transport.send(OUTGOING), transport.send(OUTGOING)]
  for (const outcome of await Promise.all(sends)) assert.equal(verdict(outcome), 'accepted')
  assert.equal(server.connections.total, 2)
})

test('a password that a server repeats, as it is or as it came, is in no outcome', async (t) => {
  const plain = Buffer.from('\0shop\0correct horse').toString('base64')
  const bare = Buffer.from('correct horse').toString('base64')
  const login = [
    greeting[0],
    greeting[1],
    '250-raw.test\r\n250 AUTH PLAIN\r\n',
    { expect: /AUTH PLAIN .*\r\n/ },
  ] satisfies readonly RawStep[]
  const quote = `${plain} ${bare} correct horse`
  const scripts: readonly (readonly RawStep[])[] = [
    [...login, `535 5.7.8 No: ${quote}\r\n`],
    [...login, '235 Ok\r\n', ...mail, { expect: /RCPT/ }, `550 5.1.1 No: ${quote}\r\n`],
    [...login, '235 Ok\r\n', ...handedOver.slice(greeting.length), `250 Ok ${quote}\r\n`],
  ]
  for (const script of scripts) {
    const server = await startRawSmtp(t, script)
    const url = `${server.url.replace('//', '//shop:correct%20horse@')}?tls=none`
    const outcome = JSON.stringify(await connect(t, { url }).send(OUTGOING))
    assert.match(outcome, /\[secret\] \[secret\] \[secret\]/)
    for (const secret of [plain, bare, 'correct horse']) assert.ok(!outcome.includes(secret), outcome)
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
  assert.equal(verdict(await transport.send(OUTGOING)), 'accepted')
  assert.equal(verdict(await transport.send(OUTGOING)), 'unknown connection_lost')
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
    const sending = connect(t, server).send(OUTGOING, abort.signal)
    await server.waitFor(reached)
    abort.abort()
    assert.equal(verdict(await sending), expected)
    await server.waitUntilQuiet()
  }
})

test('a send aborted while it waits for its turn, or before, sends nothing', async (t) => {
  const server = await startRawSmtp(t, before.mail)
  const transport = connect(t, { url: `${server.url}?${SHORT}`, maxConnections: 1 })
  const first = transport.send(OUTGOING)
  const abort = new AbortController()
  const second = transport.send(OUTGOING, abort.signal)
  abort.abort()
  assert.equal(verdict(await second), 'unreachable aborted')
  assert.equal(verdict(await transport.send(OUTGOING, abort.signal)), 'unreachable aborted')
  assert.equal(verdict(await first), 'unreachable timed_out')
  assert.equal(server.connections.total, 1)
})

test('a turn freed by a failure goes to the next in line', async (t) => {
  const server = await startRawSmtp(t, (connection) =>
    connection === 1 ? [...before.mail, { expect: /MAIL/ }, reset] : [...handedOver, '250 Ok\r\n'],
  )
  const transport = connect(t, { url: server.url, maxConnections: 1 })
  const outcomes = await Promise.all([transport.send(OUTGOING), transport.send(OUTGOING)])
  assert.deepEqual(outcomes.map(verdict), ['unreachable connection_lost', 'accepted'])
  assert.equal(server.connections.most, 1)
})
