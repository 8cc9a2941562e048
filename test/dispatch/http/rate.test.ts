import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { MAX_WAIT_MS, readRate } from '../../../src/dispatch/http/rate.ts'

const NOW = Date.parse('2026-03-01T12:00:00Z')

const SAID = [
  ['nothing', {}, 200, undefined],
  ['Retry-After in seconds', { 'retry-after': '7' }, 429, { pauseMs: 7_000 }],
  ['Retry-After with a fraction', { 'retry-after': '0.25' }, 429, { pauseMs: 250 }],
  ['Retry-After as a date', { 'retry-after': 'Sun, 01 Mar 2026 12:00:30 GMT' }, 503, { pauseMs: 30_000 }],
  ['a Retry-After gone by', { 'retry-after': 'Sun, 01 Mar 2026 11:00:00 GMT' }, 503, { pauseMs: 0 }],
  ['a Retry-After of days', { 'retry-after': '900000' }, 429, { pauseMs: MAX_WAIT_MS }],
  ['a negative Retry-After', { 'retry-after': '-5' }, 429, undefined],
  ['a Retry-After of a success', { 'retry-after': '5' }, 200, undefined],
  [
    'SendGrid: a reset in epoch seconds',
    { 'x-ratelimit-remaining': '499', 'x-ratelimit-reset': String(NOW / 1_000 + 20) },
    202,
    { remaining: 499, resetMs: 20_000 },
  ],
  [
    'SendGrid: a 429 without Retry-After pauses until the reset',
    { 'x-ratelimit-remaining': '0', 'x-ratelimit-reset': String(NOW / 1_000 + 20) },
    429,
    { remaining: 0, resetMs: 20_000, pauseMs: 20_000 },
  ],
  ['a reset in epoch milliseconds', { 'x-ratelimit-reset': String(NOW + 1_500) }, 200, { resetMs: 1_500 }],
  [
    'Resend: seconds from now',
    { 'ratelimit-limit': '5', 'ratelimit-remaining': '4', 'ratelimit-reset': '1' },
    200,
    { remaining: 4, resetMs: 1_000 },
  ],
  [
    'the draft of one header',
    { ratelimit: 'limit=100, remaining=50, reset=5' },
    200,
    { remaining: 50, resetMs: 5_000 },
  ],
  ['the structured field', { ratelimit: '"default";r=50;t=30' }, 200, { remaining: 50, resetMs: 30_000 }],
  [
    'the scarcest of several policies',
    { ratelimit: '"burst";r=8;t=1, "day";r=3;t=600, "hour";r=70' },
    200,
    { remaining: 3, resetMs: 600_000 },
  ],
  ['words for a number', { 'x-ratelimit-remaining': 'many', 'ratelimit-reset': 'soon' }, 200, undefined],
  ['a header given twice', { 'x-ratelimit-remaining': '1, 2' }, 200, undefined],
] as const

for (const [name, headers, status, expected] of SAID) {
  test(`what a provider says of its limits is understood: ${name}`, () => {
    assert.deepEqual(readRate(headers, status, NOW), expected)
  })
}

const value = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 200 }),
  fc.double().map(String),
  fc.bigInt().map(String),
  fc.date({ noInvalidDate: true }).map((date) => date.toUTCString()),
  fc.stringMatching(/^["a-z;=, \d.-]{0,60}$/),
  fc.array(fc.string(), { maxLength: 3 }),
)
const headers = fc.record(
  {
    'retry-after': value,
    'x-ratelimit-remaining': value,
    'x-ratelimit-reset': value,
    'ratelimit-remaining': value,
    'ratelimit-reset': value,
    ratelimit: value,
  },
  { requiredKeys: [] },
)

test('no header makes a wait longer than an hour, a negative number, or an error', () => {
  fc.assert(
    fc.property(headers, fc.integer({ min: 100, max: 599 }), fc.nat(), (given, status, now) => {
      const rate = readRate(given as Record<string, string>, status, now)
      if (rate === undefined) return
      assert.notDeepEqual(rate, {})
      for (const ms of [rate.resetMs, rate.pauseMs]) {
        if (ms !== undefined) assert.ok(Number.isInteger(ms) && ms >= 0 && ms <= MAX_WAIT_MS, String(ms))
      }
      if (rate.remaining !== undefined) assert.ok(Number.isSafeInteger(rate.remaining) && rate.remaining >= 0)
      if (status < 300) assert.equal(rate.pauseMs, undefined)
    }),
    { numRuns: 2_000 },
  )
})
