import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { BriefMap } from '../src/brief-map.ts'

const KEYS = 90

test('a brief map holds what a Map would, in the same order, however often it begins anew', () => {
  const step = fc.record({
    key: fc.nat(KEYS),
    action: fc.constantFrom('set', 'set', 'delete'),
  })
  fc.assert(
    fc.property(fc.array(step, { maxLength: 1_000, size: 'max' }), (steps) => {
      const brief = new BriefMap<number, object>()
      const map = new Map<number, object>()
      for (const { key, action } of steps) {
        const value = {}
        if (action === 'delete') assert.equal(brief.delete(key), map.delete(key))
        else {
          brief.set(key, value)
          map.set(key, value)
        }
        assert.equal(brief.has(key), map.has(key))
        assert.equal(brief.get(key), map.get(key))
      }
      const [left, expected] = [[...brief.values()], [...map.values()]]
      assert.equal(left.length, expected.length)
      for (const [place, value] of left.entries()) assert.equal(value, expected[place])
    }),
  )
})
