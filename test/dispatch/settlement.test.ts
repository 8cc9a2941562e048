import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { type Attempt, type SettlementRules, settle, settleFault } from '../../src/dispatch/settlement.ts'
import {
  DEFERRED_CODES,
  REFUSED_CODES,
  type SendOutcome,
  UNKNOWN_CODES,
  UNREACHABLE_CODES,
} from '../../src/dispatch/transport.ts'

const RECIPIENTS = ['ann@example.net', 'bob@example.org']
const BACKOFF = { baseMs: 1_000, factor: 2, capMs: 60_000 }

function attemptNumber(attempt: number): Attempt {
  return {
    id: '0190',
    attempt,
    claimedAt: '2026-01-01 00:00:00+00',
    provider: 'relay',
    recipients: RECIPIENTS,
    ageMs: 1_000,
  }
}

function rules(onUnknown: 'retry' | 'hold' = 'retry', attempts = 3): SettlementRules {
  return {
    stream: { name: 'transactional', attempts, backoff: BACKOFF, onUnknown, maxAgeMs: 3_600_000 },
    unreachableDelayMs: 7_000,
    random: () => 0.5,
  }
}

const OUTCOMES = {
  accepted: { kind: 'accepted', reply: '250 Ok', refused: [] },
  refused: { kind: 'refused', code: 'bad_recipient', reply: '550 5.1.1 No such user', smtpCode: 550 },
  deferred: { kind: 'deferred', code: 'mailbox_full', reply: '452 4.2.2 Full', smtpCode: 452 },
  unknown: { kind: 'unknown', code: 'timed_out', reason: 'no answer' },
  unreachable: { kind: 'unreachable', code: 'connect_failed', reason: 'ECONNREFUSED' },
} as const satisfies Record<SendOutcome['kind'], SendOutcome>

/** Outcome, on_unknown, whether attempts are left → status, whether it counts, and whether it comes again. */
const TABLE = [
  ['accepted', 'retry', true, 'sent', true],
  ['accepted', 'retry', false, 'sent', true],
  ['accepted', 'hold', true, 'sent', true],
  ['accepted', 'hold', false, 'sent', true],
  ['refused', 'retry', true, 'dead', true],
  ['refused', 'retry', false, 'dead', true],
  ['refused', 'hold', true, 'dead', true],
  ['refused', 'hold', false, 'dead', true],
  ['deferred', 'retry', true, 'deferred', true],
  ['deferred', 'retry', false, 'dead', true],
  ['deferred', 'hold', true, 'deferred', true],
  ['deferred', 'hold', false, 'dead', true],
  ['unknown', 'retry', true, 'deferred', true],
  ['unknown', 'retry', false, 'dead', true],
  ['unknown', 'hold', true, 'unknown', true],
  ['unknown', 'hold', false, 'unknown', true],
  ['unreachable', 'retry', true, 'deferred', false],
  ['unreachable', 'retry', false, 'deferred', false],
  ['unreachable', 'hold', true, 'deferred', false],
  ['unreachable', 'hold', false, 'deferred', false],
] as const

describe('what an outcome means for its message', () => {
  for (const [kind, onUnknown, isAnyLeft, status, counts] of TABLE) {
    test(`${kind}, on_unknown ${onUnknown}, ${isAnyLeft ? 'attempts' : 'no attempt'} left: ${status}`, () => {
      const settled = settle(attemptNumber(isAnyLeft ? 1 : 3), OUTCOMES[kind], rules(onUnknown))
      assert.equal(settled.status, status)
      assert.equal(settled.countsAsAttempt, counts)
      assert.equal(settled.delayMs !== null, status === 'deferred')
      assert.equal(settled.reason !== null, status === 'dead')
      assert.equal(settled.code, kind === 'accepted' ? null : OUTCOMES[kind].code)
      assert.ok(settled.events.length > 0)
    })
  }
})

test('a deferred message waits by its stream, an unreachable provider by the time it is left alone', () => {
  assert.equal(settle(attemptNumber(1), OUTCOMES.deferred, rules()).delayMs, 750)
  assert.equal(settle(attemptNumber(2), OUTCOMES.deferred, rules()).delayMs, 1_250)
  assert.equal(settle(attemptNumber(2), OUTCOMES.unreachable, rules()).delayMs, 7_000)
})

test("a dead letter carries the server's words, bounded, and its recipients' domain", () => {
  const reply = `550 ${'x'.repeat(5_000)}`
  const settled = settle(attemptNumber(1), { ...OUTCOMES.refused, reply }, rules())
  assert.equal(settled.reason, reply.slice(0, 2_000))
  assert.equal(settled.recipientDomain, 'example.net')
  assert.deepEqual(settleFault(attemptNumber(1), 'unsafe_header', 'why').events[0]?.detail, {
    stage: 'dispatch',
    provider: 'relay',
    attempt: 1,
    code: 'unsafe_header',
    reply: undefined,
    smtp_code: undefined,
    enhanced_code: undefined,
    http_status: undefined,
    provider_code: undefined,
  })
})

test('when one of two recipients is told "not now", only that one stays to be sent to', () => {
  const refused = [
    { recipient: 'bob@example.org', permanent: false, code: 'mailbox_full', reply: '452 4.2.2 Full' },
  ] as const
  const settled = settle(attemptNumber(1), { kind: 'accepted', reply: '250 Ok', refused }, rules())
  assert.deepEqual(
    [settled.status, settled.code, settled.countsAsAttempt],
    ['deferred', 'mailbox_full', true],
  )
  assert.deepEqual(
    settled.events.map(({ type, recipient }) => [type, recipient]),
    [
      ['recipient_sent', 'ann@example.net'],
      ['deferred', undefined],
    ],
  )
  const last = settle(attemptNumber(3), { kind: 'accepted', reply: '250 Ok', refused }, rules())
  assert.deepEqual([last.status, last.events[0]?.type], ['dead', 'recipient_sent'])
})

test('when one of two recipients is refused for good, the message is sent and says who did not get it', () => {
  const refused = [{ recipient: 'bob@example.org', permanent: true, code: 'bad_recipient' }] as const
  const settled = settle(attemptNumber(1), { kind: 'accepted', reply: '250 Ok', refused }, rules())
  assert.equal(settled.status, 'sent')
  assert.deepEqual(
    settled.events.map(({ type, recipient }) => [type, recipient]),
    [
      ['recipient_refused', 'bob@example.org'],
      ['sent', undefined],
    ],
  )
})

const reply = fc.option(fc.string({ maxLength: 3_000 }), { nil: undefined })

function said<const Kind extends string, const Code extends string>(kind: Kind, codes: readonly Code[]) {
  return fc.record({ kind: fc.constant(kind), code: fc.constantFrom(...codes), reason: fc.string(), reply })
}

const anyOutcome: fc.Arbitrary<SendOutcome> = fc.oneof(
  said('refused', REFUSED_CODES),
  said('deferred', DEFERRED_CODES),
  said('unknown', UNKNOWN_CODES),
  said('unreachable', UNREACHABLE_CODES),
  fc.record({
    kind: fc.constant('accepted' as const),
    reply: fc.string(),
    refused: fc.uniqueArray(
      fc.record({
        recipient: fc.constantFrom(...RECIPIENTS),
        permanent: fc.boolean(),
        code: fc.constantFrom(...REFUSED_CODES, ...DEFERRED_CODES),
      }),
      { selector: ({ recipient }) => recipient, maxLength: 1 },
    ),
  }),
) as fc.Arbitrary<SendOutcome>

const anyRules = fc.record({
  attempts: fc.integer({ min: 1, max: 20 }),
  onUnknown: fc.constantFrom('retry' as const, 'hold' as const),
  random: fc.double({ min: 0, max: 0.999_999, noNaN: true }),
})

test('whatever a provider does, a message ends or comes again, never both and never neither', () => {
  fc.assert(
    fc.property(anyOutcome, anyRules, fc.integer({ min: 1, max: 20 }), (outcome, given, attempt) => {
      const settled = settle(attemptNumber(attempt), outcome, {
        ...rules(given.onUnknown, given.attempts),
        random: () => given.random,
      })
      assert.equal(settled.id, '0190')
      assert.equal(settled.attempt, attempt)
      assert.equal(settled.status === 'deferred', settled.delayMs !== null && settled.delayMs > 0)
      assert.equal(settled.status === 'dead', settled.reason !== null && settled.code !== null)
      assert.ok((settled.reason ?? '').length <= 2_000)
      // Only what never reached a provider is free; everything else is bounded by the stream's attempts.
      assert.equal(settled.countsAsAttempt, outcome.kind !== 'unreachable')
      if (settled.status === 'deferred' && settled.countsAsAttempt) assert.ok(attempt < given.attempts)
      if (settled.status === 'unknown') assert.equal(given.onUnknown, 'hold')
      if (settled.status === 'sent') assert.equal(outcome.kind, 'accepted')
      assert.doesNotThrow(() => JSON.stringify(settled))
    }),
  )
})

test('a delay that the reply names is waited out, for the message or for the recipients that are left', () => {
  const reply = '450 4.2.0 Greylisted, try again in 5 minutes'
  const deferred = { kind: 'deferred', code: 'smtp_deferred', reply, smtpCode: 450 } as const
  assert.equal(settle(attemptNumber(1), deferred, rules()).delayMs, 300_000)
  const refused = [{ recipient: 'bob@example.org', permanent: false, code: 'smtp_deferred', reply }] as const
  const partly = settle(attemptNumber(1), { ...OUTCOMES.accepted, refused }, rules())
  assert.equal(partly.delayMs, 300_000)
  const paused = { ...OUTCOMES.accepted, refused: [{ ...refused[0], reply: '450 Later' }] }
  assert.equal(settle(attemptNumber(1), { ...paused, rate: { pauseMs: 60_000 } }, rules()).delayMs, 60_000)
})
