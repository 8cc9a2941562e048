import { test } from 'node:test'
import fc from 'fast-check'
import { FUZZ_TARGETS } from './targets.ts'

const CASES = 500

// Requests to routes have a test of their own, over a service it has already: test/http/hostile-input.test.ts.
for (const { name, about, open } of FUZZ_TARGETS.filter((target) => target.name !== 'routes')) {
  test(`${about}: read or refused, never a fault, and in time`, async (t) => {
    const property = await open(t)
    await fc.assert(property, {
      numRuns: CASES,
      interruptAfterTimeLimit: 3_000,
      markInterruptAsFailure: false,
    })
    t.diagnostic(`for longer: npm run fuzz -- ${name}`)
  })
}
