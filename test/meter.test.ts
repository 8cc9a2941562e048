import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Measures, Meter } from '../src/meter.ts'

const place = { stream: 'orders', provider: 'ses' }

test('what was told is not told again, and what could not be told comes with the next', async () => {
  const meter = new Meter()
  const told: Measures[] = []
  const tell = () => meter.tell(async (measures) => void told.push(measures))
  meter.happened('sent', place, 2)
  await assert.rejects(meter.tell(() => Promise.reject(new Error('away'))))
  meter.happened('sent', place, 3)
  meter.cameIn({ stage: 'dispatch', ...place }, 7)
  await tell()
  await tell()
  meter.happened('sent', place, 1)
  await tell()
  assert.deepEqual(
    told.map(({ tallies }) => tallies.map(({ kind, count }) => [kind, count])),
    [[['sent', 5]], [['sent', 1]]],
  )
  assert.deepEqual(told[0]?.flows, [{ stage: 'dispatch', ...place, cameIn: 7, wentOut: 0 }])
  assert.deepEqual(meter.totals().tallies, [{ ...place, kind: 'sent', count: 6 }])
})

test('what comes in while something is being told is told next', async () => {
  const meter = new Meter()
  meter.happened('sent', place, 1)
  await meter.tell(async () => meter.happened('sent', place, 10))
  let count = 0
  await meter.tell(async ({ tallies }) => {
    count = tallies[0]?.count ?? 0
  })
  assert.equal(count, 10)
})

test('times fall into the bucket below the next greater bound', () => {
  const meter = new Meter()
  for (const seconds of [-1, 0.009, 0.01, 0.4, 1e9]) meter.took('time_to_send', place, seconds)
  assert.deepEqual(
    meter.totals().times.map(({ bucket, count, seconds }) => [bucket, count, seconds]),
    [
      [0, 2, 0.009],
      [1, 1, 0.01],
      [5, 1, 0.4],
      [20, 1, 1e9],
    ],
  )
})
