import assert from 'node:assert/strict'
import { test } from 'node:test'
import { amount, momentAndAge, perSecond, share, span } from '../../../src/http/dashboard/amounts.ts'

const NBSP = '\u00a0'

test('counts are short', () => {
  for (const [count, words] of [
    [0, '0'],
    [999, '999'],
    [999.6, `1${NBSP}k`],
    [1_234, `1.2${NBSP}k`],
    [12_345_678, `12.3${NBSP}M`],
    [-1_500, `-1.5${NBSP}k`],
  ] as const) {
    assert.equal(amount(count), words)
  }
})

test('rates have a decimal only where it says something', () => {
  for (const [rate, words] of [
    [0, '0'],
    [0.01, '< 0.1'],
    [0.25, '0.3'],
    [9.04, '9'],
    [12.4, '12'],
    [12_400, `12.4${NBSP}k`],
    [-3.14, '-3.1'],
  ] as const) {
    assert.equal(perSecond(rate), words)
  }
})

test('lengths of time are in the unit that fits', () => {
  for (const [seconds, words] of [
    [0, '0 s'],
    [0.0404, '40 ms'],
    [0.9999, '1 s'],
    [2.51, '2.5 s'],
    [59.6, '60 s'],
    [180, '3 min'],
    [3_599, '1 h'],
    [7_800, '2 h 10 min'],
    [86_400, '24 h'],
    [400_000, '5 d'],
  ] as const) {
    assert.equal(span(seconds), words)
  }
})

test('shares are in per cent, and what is not nothing does not look like it', () => {
  assert.deepEqual([0, 0.0004, 0.042, 0.5, 1].map(share), ['0 %', '< 0.1 %', '4.2 %', '50 %', '100 %'])
})

test('a moment says how long ago it was, or how soon it is', () => {
  const now = new Date('2026-01-01T00:10:00Z')
  assert.match(String(momentAndAge('2026-01-01T00:07:00Z', now)), /00:07:00<\/time>.*3 min ago/)
  assert.match(String(momentAndAge('2026-01-01T00:10:30Z', now)), /in 30 s/)
  assert.equal(momentAndAge(null, now), null)
  assert.equal(momentAndAge('infinity', now), null)
})
