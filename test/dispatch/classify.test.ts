import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { classify, parseReply, SMTP_PHASES, type SmtpPhase } from '../../src/dispatch/classify.ts'
import {
  DEFERRED_CODES,
  REFUSED_CODES,
  UNKNOWN_CODES,
  UNREACHABLE_CODES,
} from '../../src/dispatch/transport.ts'

const CODES: Readonly<Record<string, readonly string[]>> = {
  refused: REFUSED_CODES,
  deferred: DEFERRED_CODES,
  unreachable: UNREACHABLE_CODES,
  unknown: UNKNOWN_CODES,
}

function verdict(phase: SmtpPhase, reply: string): string {
  const { kind, code } = classify({ phase, ...parseReply(reply) })
  return `${kind} ${code}`
}

const ANSWERS: readonly (readonly [SmtpPhase, string, string])[] = [
  ['greeting', '421 4.3.2 Too many connections', 'unreachable service_unavailable'],
  ['greeting', '554 No SMTP service here', 'unreachable service_unavailable'],
  ['greeting', '521 Host does not accept mail', 'unreachable service_unavailable'],
  ['tls', '454 4.7.0 TLS not available', 'unreachable tls_failed'],
  ['auth', '535 5.7.8 Authentication failed', 'unreachable auth_failed'],
  ['auth', '454 4.7.0 Temporary authentication failure', 'unreachable auth_failed'],
  ['auth', '421 4.7.0 Try again later', 'unreachable service_unavailable'],
  ['mail', '530 5.7.0 Authentication required', 'unreachable auth_failed'],
  ['mail', '550 5.7.1 Sender not verified', 'refused policy_refused'],
  ['mail', '553 Sender not allowed', 'refused sender_refused'],
  ['mail', '552 Message size exceeds limit', 'refused message_too_large'],
  ['mail', '451 4.7.500 Server busy', 'deferred smtp_deferred'],
  ['rcpt', '550 5.1.1 No such user', 'refused bad_recipient'],
  ['rcpt', '550 No such user', 'refused bad_recipient'],
  ['rcpt', '556 5.1.10 Domain takes no mail', 'refused bad_recipient'],
  ['rcpt', '550 5.7.1 Blocked', 'refused policy_refused'],
  ['rcpt', '450 4.2.0 Greylisted', 'deferred smtp_deferred'],
  ['rcpt', '452 4.5.3 Too many recipients', 'deferred too_many_recipients'],
  ['rcpt', '552 Too many recipients', 'deferred too_many_recipients'],
  ['rcpt', '452 4.2.2 Mailbox full', 'deferred mailbox_full'],
  ['rcpt', '552 5.2.2 Mailbox full', 'deferred mailbox_full'],
  ['rcpt', '452 Insufficient storage', 'deferred server_out_of_space'],
  ['data', '503 5.5.1 Bad sequence', 'deferred session_fault'],
  ['data', '554 No valid recipients', 'refused smtp_refused'],
  ['content', '552 5.3.4 Message too big', 'refused message_too_large'],
  ['content', '554 5.6.0 Malformed', 'refused content_refused'],
  ['content', '554 Spam', 'refused content_refused'],
  ['content', '454 Throttling failure: Maximum sending rate exceeded', 'unreachable throttled'],
  ['content', '451 Local error', 'deferred smtp_deferred'],
  ['content', '421 Shutting down', 'deferred service_unavailable'],
]

for (const [phase, reply, expected] of ANSWERS) {
  test(`"${reply}" in the ${phase} phase is ${expected}`, () => assert.equal(verdict(phase, reply), expected))
}

test('an enhanced code that contradicts its reply code is not believed', () => {
  assert.equal(verdict('rcpt', '450 5.1.1 No such user'), 'deferred smtp_deferred')
})

test('a fault without an answer is unknown after the content and unreachable before it', () => {
  assert.deepEqual(classify({ phase: 'content', clientCode: 'ECONNECTION' }), {
    kind: 'unknown',
    code: 'connection_lost',
  })
  assert.deepEqual(classify({ phase: 'content', clientCode: 'ETIMEDOUT' }), {
    kind: 'unknown',
    code: 'timed_out',
  })
  assert.deepEqual(classify({ phase: 'data', clientCode: 'ECONNECTION' }), {
    kind: 'unreachable',
    code: 'connection_lost',
  })
  assert.deepEqual(classify({ phase: 'connect', clientCode: 'EDNS', systemCode: 'ENOTFOUND' }), {
    kind: 'unreachable',
    code: 'dns_failed',
  })
  assert.deepEqual(classify({ phase: 'connect', clientCode: 'ESOCKET', systemCode: 'ECONNREFUSED' }), {
    kind: 'unreachable',
    code: 'connect_failed',
  })
  assert.deepEqual(
    classify({ phase: 'connect', clientCode: 'ESOCKET', systemCode: 'DEPTH_ZERO_SELF_SIGNED_CERT' }),
    {
      kind: 'unreachable',
      code: 'tls_failed',
    },
  )
})

test('an answer to the content that is neither yes nor no leaves the outcome unknown', () => {
  for (const reply of ['354 Go ahead', '250', 'hello', '', '999 no']) {
    assert.equal(verdict('content', reply).split(' ')[0], 'unknown', reply)
  }
})

const anyReply = fc.oneof(
  fc.uint8Array({ maxLength: 600 }).map((bytes) => Buffer.from(bytes).toString('latin1')),
  fc.string({ unit: 'binary', maxLength: 600 }),
  fc
    .tuple(fc.integer({ min: 0, max: 999 }), fc.constantFrom(' ', '-', ''), fc.string())
    .map(([code, separator, text]) => `${code}${separator}${text}`),
)
const anyCode = fc.option(
  fc.constantFrom(
    'ECONNECTION',
    'ETIMEDOUT',
    'ETLS',
    'EAUTH',
    'EDNS',
    'EPROTOCOL',
    'ESOCKET',
    'EABORT',
    'EMESSAGE',
    'X',
  ),
  { nil: undefined },
)

test('any bytes in any phase have a verdict from the closed set, and never an unknown one before the content', () => {
  fc.assert(
    fc.property(
      fc.constantFrom(...SMTP_PHASES),
      anyReply,
      anyCode,
      anyCode,
      (phase, reply, clientCode, systemCode) => {
        const { kind, code } = classify({ phase, ...parseReply(reply), clientCode, systemCode })
        assert.ok(CODES[kind]?.includes(code), `${kind} ${code}`)
        if (kind === 'unknown') assert.equal(phase, 'content')
      },
    ),
  )
})

test('only a 5yz answer is ever final', () => {
  fc.assert(
    fc.property(fc.constantFrom(...SMTP_PHASES), anyReply, anyCode, (phase, reply, clientCode) => {
      const answer = parseReply(reply)
      const { kind } = classify({ phase, ...answer, clientCode })
      if (kind === 'refused') assert.equal(Math.floor((answer.smtpCode ?? 0) / 100), 5)
    }),
  )
})

test('what a server said is bounded and safe to store, whatever it said', () => {
  fc.assert(
    fc.property(anyReply, (bytes) => {
      const { reply = '' } = parseReply(bytes.repeat(3))
      assert.ok(reply.length <= 500 && reply.isWellFormed() && !/\p{Cc}/u.test(reply))
    }),
  )
})
