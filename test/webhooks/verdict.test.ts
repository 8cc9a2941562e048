import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { type Answer, judge, RETRY_DELAYS_MS } from '../../src/webhooks/verdict.ts'

function answered(status: number | null): Answer {
  return { status, response: null, error: status === null ? 'no answer' : null, isAborted: false }
}

test('any 2xx is a success, whatever came before', () => {
  fc.assert(
    fc.property(fc.integer({ min: 200, max: 299 }), fc.nat(20), (status, tries) => {
      assert.deepEqual(judge(answered(status), tries, Math.random), {
        state: 'success',
        delayMs: null,
        isGone: false,
      })
    }),
  )
})

test('every failure waits for its place in the schedule, up to a fifth longer, and the eighth is the last', () => {
  for (const status of [null, 400, 401, 404, 429, 500, 503]) {
    for (const [tries, delay] of RETRY_DELAYS_MS.entries()) {
      assert.equal(judge(answered(status), tries, () => 0).delayMs, delay)
      assert.equal(judge(answered(status), tries, () => 1).delayMs, delay * 1.2)
      assert.equal(judge(answered(status), tries, () => 0).state, 'attempting')
    }
    assert.deepEqual(judge(answered(status), RETRY_DELAYS_MS.length, Math.random), {
      state: 'failed',
      delayMs: null,
      isGone: false,
    })
  }
})

test('410 ends it at once, and the endpoint with it', () => {
  assert.deepEqual(judge(answered(410), 0, Math.random), { state: 'failed', delayMs: null, isGone: true })
})

test('a request that was cut off because we stop goes again at once', () => {
  const cut = { ...answered(null), isAborted: true }
  assert.deepEqual(judge(cut, 7, Math.random), { state: 'attempting', delayMs: 0, isGone: false })
})
