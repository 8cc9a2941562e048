import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { classify, outcomeOf, parseReply, SMTP_PHASES, type SmtpPhase } from '../../src/dispatch/classify.ts'
import { namedDelayMs } from '../../src/dispatch/reply-words.ts'
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
  ['greeting', '421 4.3.2 Too many connections', 'unreachable throttled'],
  ['greeting', '421 4.3.2 Shutting down', 'unreachable service_unavailable'],
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
  ['mail', '451 4.7.500 Server busy', 'unreachable throttled'],
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

/** As servers really say it, by what they complain about. */
const SAYINGS: readonly (readonly [SmtpPhase, string, string])[] = [
  // Our rate, "not now".
  ['mail', '421 4.7.0 Try again later, closing connection.', 'unreachable throttled'],
  ['mail', '421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred', 'unreachable throttled'],
  ['content', '421 4.7.28 Our system has detected an unusual rate of mail', 'unreachable throttled'],
  ['content', '451 4.7.650 The mail server has been temporarily rate limited', 'unreachable throttled'],
  ['rcpt', '450 4.7.1 Error: too many recipients from 192.0.2.1', 'unreachable throttled'],
  ['rcpt', '450 4.7.1 Error: too much mail from 192.0.2.1', 'unreachable throttled'],
  ['rcpt', '451 Rate limit exceeded, slow down', 'unreachable throttled'],
  ['data', '452 4.5.2 Hourly sending limit reached', 'unreachable throttled'],
  ['content', '450 Too many messages, try again in 10 minutes', 'unreachable throttled'],
  ['hello', '421 Too many concurrent connections from your host', 'unreachable throttled'],
  ['auth', '454 4.7.0 Too many login attempts, please try again later', 'unreachable throttled'],
  // One message that a scanner never passes.
  ['content', '451 4.7.1 Cannot scan the message now', 'deferred smtp_deferred'],
  // The session, not the rate.
  ['mail', '421 4.7.0 Too many messages in this connection', 'unreachable service_unavailable'],
  // Grey-listing, and one mailbox that gets too much.
  [
    'rcpt',
    '450 4.2.0 <a@b.test>: Recipient address rejected: Greylisted for 5 minutes',
    'deferred smtp_deferred',
  ],
  ['rcpt', '451 4.7.1 Greylisting in action, please come back in 00:04:42', 'deferred smtp_deferred'],
  ['rcpt', '421 4.7.1 Gray-listed, try again', 'deferred smtp_deferred'],
  ['content', '451 4.7.1 Temporarily greylisted', 'deferred smtp_deferred'],
  [
    'rcpt',
    '450 4.2.1 The user you are trying to contact is receiving mail too quickly',
    'deferred smtp_deferred',
  ],
  // A policy that may be a passing fault of the DNS, or our own.
  ['rcpt', '450 4.7.25 Client host rejected: cannot find your hostname', 'deferred smtp_deferred'],
  ['content', '451 4.7.24 SPF validation could not be done', 'deferred smtp_deferred'],
  // Too many recipients, whatever the code.
  ['rcpt', '550 5.5.3 Too many recipients', 'deferred too_many_recipients'],
  ['rcpt', '550 Too many recipients', 'deferred too_many_recipients'],
  ['data', '451 Too many recipients', 'deferred too_many_recipients'],
  // A bare 550 that is about us.
  ['rcpt', '550 Blocked by policy', 'refused policy_refused'],
  ['rcpt', '550 Your IP is listed at zen.spamhaus.org', 'refused policy_refused'],
  ['rcpt', '550 Daily sending quota exceeded', 'refused policy_refused'],
  ['rcpt', '550-5.4.5 Daily SMTP relay limit exceeded for customer.', 'refused policy_refused'],
  ['rcpt', '550 Rate limit exceeded', 'refused policy_refused'],
  ['rcpt', '550 4.7.1 Rate limit exceeded', 'refused policy_refused'],
  ['rcpt', '550 Greylisted by policy', 'refused policy_refused'],
  ['rcpt', '550 relay not permitted', 'refused policy_refused'],
  ['rcpt', "553 sorry, that domain isn't in my list of allowed rcpthosts", 'refused policy_refused'],
  ['rcpt', '550 5.4.1 Recipient address rejected: Access denied', 'refused policy_refused'],
  ['rcpt', '550 5.2.1 Mail refused, DMARC check failed', 'refused policy_refused'],
  ['rcpt', '550 Sender verify failed', 'refused sender_refused'],
  ['rcpt', '550 5.4.6 Routing loop detected', 'refused smtp_refused'],
  ['content', '550 Rate limit exceeded', 'refused policy_refused'],
  // A bare 550 about the recipient.
  ['rcpt', '550 5.2.1 Mailbox disabled', 'refused bad_recipient'],
  ['rcpt', '550 Recipient address rejected: User unknown in virtual mailbox table', 'refused bad_recipient'],
  ['rcpt', '550 5.1.1 The account does not exist, see our policy', 'refused bad_recipient'],
  ['rcpt', '550 Mailbox full', 'deferred mailbox_full'],
  ['rcpt', '552 Mailbox is over quota', 'deferred mailbox_full'],
  ['mail', '503 5.5.1 Need EHLO first', 'deferred session_fault'],
  ['content', '503 Bad sequence', 'deferred session_fault'],
]

for (const [phase, reply, expected] of [...ANSWERS, ...SAYINGS]) {
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

test('with every recipient refused, a temporary refusal decides, and bad_recipient only when all of them are', () => {
  const error = (response: string) => Object.assign(new Error(response), { response })
  const allRefused = (...replies: string[]) =>
    outcomeOf('rcpt', { ...error(replies.at(-1) ?? ''), rejectedErrors: replies.map(error) })
  const cases: readonly (readonly [readonly string[], string])[] = [
    [['550 5.1.1 No such user', '550 5.1.1 No such user'], 'bad_recipient'],
    [['552 Too many recipients', '550 5.1.1 No such user'], 'too_many_recipients'],
    [['550 5.7.1 Blocked', '550 5.1.1 No such user'], 'policy_refused'],
    [['550 5.1.1 No such user', '451 Rate limit exceeded', '550 5.7.1 Blocked'], 'throttled'],
  ]
  for (const [replies, code] of cases) {
    const outcome = allRefused(...replies)
    assert.equal(outcome.kind === 'accepted' ? 'accepted' : outcome.code, code, replies.join(' / '))
  }
})

const DELAYS: readonly (readonly [string, number | undefined])[] = [
  ['451 4.7.1 Try again in 5 minutes', 300_000],
  ['450 Rate limit exceeded, retry after 60 seconds', 60_000],
  ['421 4.7.0 Please wait 30s', 30_000],
  ['451 4.7.1 Greylisting in action, please come back in 00:04:42', 282_000],
  ['450 4.2.0 Greylisted for 1 minute (see http://postgrey.test/help.html)', 60_000],
  ['450-4.2.1 Slow down\n450 4.2.1 and try again later, in 2 hours', 3_600_000],
  ['421 Try again in 99999 seconds', 3_600_000],
  ['450 Try again in 0 seconds', undefined],
  ['450 Not more than 100 messages in 60 seconds', undefined],
  ['450 Try again later. You sent 50 messages in 60 seconds', undefined],
  ['450 4.7.1 Try again in a while', undefined],
]
for (const [reply, delayMs] of DELAYS) {
  test(`"${reply}" names ${delayMs === undefined ? 'no delay' : `a delay of ${delayMs} ms`}`, () =>
    assert.equal(namedDelayMs(parseReply(reply).reply ?? ''), delayMs))
}

test('a delay pauses the provider when it is about all our mail, and not when it is about one recipient', () => {
  const paused = (phase: SmtpPhase, response: string) =>
    outcomeOf(phase, Object.assign(new Error(response), { response })).rate
  assert.deepEqual(paused('mail', '451 4.7.1 Rate limited, retry after 60 seconds'), { pauseMs: 60_000 })
  assert.deepEqual(paused('greeting', '421 4.3.2 Down, try again in 5 minutes'), { pauseMs: 300_000 })
  assert.deepEqual(paused('content', '421 Shutting down, try again in 1 minute'), { pauseMs: 60_000 })
  assert.equal(paused('rcpt', '450 4.2.0 Greylisted, try again in 300 seconds'), undefined)
  assert.equal(paused('rcpt', '550 5.7.1 Blocked, try again in 1 hour'), undefined)
  assert.equal(paused('mail', '451 4.7.1 Rate limited'), undefined)
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
/** Replies that are nearly sense: real codes with words that mean something. */
const anySaying = fc
  .tuple(
    fc.constantFrom(421, 450, 451, 452, 454, 500, 501, 503, 530, 535, 550, 551, 552, 553, 554, 556),
    fc.option(fc.tuple(fc.constantFrom(4, 5), fc.nat(7), fc.nat(30)), { nil: undefined }),
    fc.array(
      fc.constantFrom(
        'policy',
        'rate limit',
        'greylisted',
        'sender',
        'rejected',
        'too many recipients',
        'no user',
      ),
      { maxLength: 4 },
    ),
  )
  .map(([code, enhanced, words]) => [code, ...(enhanced ? [enhanced.join('.')] : []), ...words].join(' '))
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
      fc.oneof(anyReply, anySaying),
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
    fc.property(
      fc.constantFrom(...SMTP_PHASES),
      fc.oneof(anyReply, anySaying),
      anyCode,
      (phase, reply, clientCode) => {
        const answer = parseReply(reply)
        const { kind } = classify({ phase, ...answer, clientCode })
        if (kind === 'refused') assert.equal(Math.floor((answer.smtpCode ?? 0) / 100), 5)
      },
    ),
    { numRuns: 2_000 },
  )
})

test('an address is only ever blamed by RCPT, or by a code that says so, and never by a policy or a rate', () => {
  fc.assert(
    fc.property(fc.constantFrom(...SMTP_PHASES), fc.oneof(anyReply, anySaying), (phase, reply) => {
      const answer = parseReply(reply)
      if (classify({ phase, ...answer }).code !== 'bad_recipient') return
      if (answer.enhancedCode?.startsWith('5.1.')) return
      assert.equal(phase, 'rcpt')
      assert.doesNotMatch(reply, /policy|rate limit|greylisted|^\d{3} 5\.7\./)
    }),
    { numRuns: 2_000 },
  )
})

test('throttling is only ever read from a 4yz, and a delay never exceeds an hour', () => {
  fc.assert(
    fc.property(
      fc.constantFrom(...SMTP_PHASES),
      fc.oneof(anyReply, anySaying),
      fc.nat(),
      (phase, reply, n) => {
        const answer = parseReply(reply)
        if (classify({ phase, ...answer }).code === 'throttled')
          assert.equal(Math.floor((answer.smtpCode ?? 0) / 100), 4)
        const delayMs = namedDelayMs(`${reply} try again in ${n} minutes ${reply}`)
        assert.ok(delayMs === undefined || (delayMs > 0 && delayMs <= 3_600_000))
      },
    ),
    { numRuns: 2_000 },
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
