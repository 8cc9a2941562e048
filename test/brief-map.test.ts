import assert from 'node:assert/strict'
import { test } from 'node:test'
import { getHeapSpaceStatistics, setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
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

test('a brief map lets go of what was deleted, which a Map holds until all of the heap is collected', () => {
  const [plain, brief] = [new Map<number, object>(), new BriefMap<number, object>()].map(grownKb)
  assert.ok(plain !== undefined && brief !== undefined && brief * 10 < plain, `${brief} kB, and ${plain} kB`)
})

type Churned = { set(key: number, value: object): unknown; delete(key: number): boolean }

/** By how much the old objects grow while 5,000 young ones come and go, eight at a time. */
function grownKb(map: Churned): number {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as (options?: { type: 'minor' }) => void
  const churn = (from: number, to: number) => {
    for (let n = from; n < to; n += 1) {
      map.set(n, { content: new Array(100).fill(n) })
      map.delete(n - 8)
      if (n % 100 === 0) collect({ type: 'minor' })
    }
  }
  churn(0, 1_000)
  collect()
  const before = oldKb()
  churn(1_000, 6_000)
  return oldKb() - before
}

function oldKb(): number {
  const old = getHeapSpaceStatistics().find(({ space_name: name }) => name === 'old_space')
  return (old?.space_used_size ?? 0) / 1_024
}
