import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Reading } from '../../src/metrics/reading.ts'

/** Readings that end when the test says so, on a clock of its own. */
function stage() {
  const clock = { ms: 0 }
  const reads: PromiseWithResolvers<string>[] = []
  const errors: unknown[] = []
  const reading = new Reading<string>({
    read: () => {
      const read = Promise.withResolvers<string>()
      reads.push(read)
      return read.promise
    },
    freshMs: 100,
    keepMs: 1_000,
    onError: (error) => errors.push(error),
    now: () => clock.ms,
  })
  const last = () => reads.at(-1) ?? assert.fail('nothing was read')
  return { clock, reads, errors, reading, last }
}

const PATIENT_MS = 10_000

test('all who ask at once share one reading, and so do those who ask while it is fresh', async () => {
  const { clock, reads, reading, last } = stage()
  const asked = [reading.get(PATIENT_MS), reading.get(PATIENT_MS), reading.get(PATIENT_MS)]
  last().resolve('first')
  assert.deepEqual(await Promise.all(asked), Array(3).fill({ value: 'first', ageMs: 0 }))
  clock.ms = 99
  assert.deepEqual(await reading.get(PATIENT_MS), { value: 'first', ageMs: 99 })
  assert.equal(reads.length, 1)
  clock.ms = 100
  const next = reading.get(PATIENT_MS)
  last().resolve('second')
  assert.deepEqual(await next, { value: 'second', ageMs: 0 })
})

test('who cannot wait gets the value from before, with its age, but none that is too old', async () => {
  const { clock, reads, reading, last } = stage()
  assert.equal(await reading.get(0), undefined)
  last().resolve('first')
  await reading.get(PATIENT_MS)
  clock.ms = 1_000
  assert.deepEqual(await reading.get(0), { value: 'first', ageMs: 1_000 })
  clock.ms = 1_001
  assert.equal(await reading.get(0), undefined)
  assert.equal(reads.length, 2, 'one at a time, however many ask')
  const waiting = reading.get(PATIENT_MS)
  last().resolve('second')
  // It began a millisecond before the clock stood here, and is as old as its begin.
  assert.deepEqual(await waiting, { value: 'second', ageMs: 1 })
})

test('after a reading that failed there is no value, however young the one before', async () => {
  const { clock, errors, reading, last } = stage()
  const first = reading.get(PATIENT_MS)
  last().resolve('first')
  await first
  clock.ms = 150
  const failed = reading.get(PATIENT_MS)
  last().reject(new Error('away'))
  assert.equal(await failed, undefined)
  assert.equal(errors.length, 1)
  const again = reading.get(PATIENT_MS)
  last().resolve('back')
  assert.deepEqual(await again, { value: 'back', ageMs: 0 })
})
