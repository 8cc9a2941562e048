import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { retryDelayMs } from '../../src/dispatch/backoff.ts'

const policy = { baseMs: 1_000, factor: 4, capMs: 60_000 }
const nearlyOne = () => 1 - Number.EPSILON
const zero = () => 0

const anyPolicy = fc.record({
  baseMs: fc.integer({ min: 1, max: 3_600_000 }),
  factor: fc.double({ min: 1, max: 100, noNaN: true }),
  capMs: fc.integer({ min: 1, max: 604_800_000 }),
})
const anyRandom = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true })

test('the longest wait grows by the factor until the cap', () => {
  const longest = [1, 2, 3, 4, 5].map((attempt) => retryDelayMs(policy, attempt, nearlyOne))
  assert.deepEqual(longest, [1_000, 4_000, 16_000, 60_000, 60_000])
})

test('the shortest wait is half of the base, on every attempt', () => {
  const shortest = [1, 2, 10].map((attempt) => retryDelayMs(policy, attempt, zero))
  assert.deepEqual(shortest, [500, 500, 500])
})

test('any policy, attempt and luck give a whole number of at least 1 ms that is not above the cap', () => {
  fc.assert(
    fc.property(anyPolicy, fc.integer({ min: -1, max: 1_000_000 }), anyRandom, (any, attempt, luck) => {
      const delay = retryDelayMs(any, attempt, () => luck)
      assert.ok(Number.isSafeInteger(delay))
      assert.ok(delay >= 1 && delay <= any.capMs)
    }),
  )
})

test('with the same luck a later attempt never waits less', () => {
  fc.assert(
    fc.property(anyPolicy, fc.integer({ min: 1, max: 200 }), anyRandom, (any, attempt, luck) => {
      assert.ok(retryDelayMs(any, attempt + 1, () => luck) >= retryDelayMs(any, attempt, () => luck))
    }),
  )
})

test('messages that failed together do not come back together', () => {
  fc.assert(
    fc.property(fc.uniqueArray(anyRandom, { minLength: 100, maxLength: 100 }), (lucks) => {
      const wide = { baseMs: 1e9, factor: 2, capMs: 1e12 }
      const delays = new Set(lucks.map((luck) => Math.round(luck * 1e6)))
      const spread = new Set(lucks.map((luck) => retryDelayMs(wide, 3, () => luck)))
      assert.ok(spread.size >= delays.size)
    }),
  )
})
