import assert from 'node:assert/strict'
import fc from 'fast-check'
import type { Scope } from '../support/scope.ts'

/** Something that strangers feed, and what must hold whatever they feed it. */
export type FuzzTarget = {
  readonly name: string
  /** What is fed, as a few words. */
  readonly about: string
  /** What it needs is opened in the scope, and ends with it. */
  open(scope: Scope): Promise<fc.IAsyncProperty<[unknown]>>
}

/** Of the processor's time, not of the clock's: other work on the machine must not count. */
const LIMIT_MS = 1_000

/** A target without needs: `check` throws when something does not hold, and must be done in a second. */
export function fuzzTarget<T>(
  name: string,
  about: string,
  { cases, check }: { readonly cases: fc.Arbitrary<T>; check(given: T): unknown },
): FuzzTarget {
  return { name, about, open: async () => inTime(cases, check) }
}

export function inTime<T>(
  cases: fc.Arbitrary<T>,
  check: (given: T) => unknown,
): fc.IAsyncProperty<[unknown]> {
  const property = fc.asyncProperty(cases, async (given) => {
    const before = process.cpuUsage()
    await check(given)
    const { user, system } = process.cpuUsage(before)
    const ms = (user + system) / 1_000
    assert.ok(ms < LIMIT_MS, `it took ${Math.round(ms)} ms of processor time`)
  })
  return property as unknown as fc.IAsyncProperty<[unknown]>
}

type Change = { readonly at: number; readonly drop: number; readonly put: string }

/** Text that breaks readers, in pieces short enough to stand anywhere. */
const PIECES = [
  ...['\0', '\r', '\n', '\r\n', '\r\n\r\n', '\t', ' ', '\u0085', '\u2028', '\ufeff', '\u202e', '\ud800'],
  ...[
    '"',
    "'",
    '\\',
    '<',
    '>',
    '(',
    ')',
    '[',
    ']',
    '{',
    '}',
    ',',
    ';',
    ':',
    '@',
    '.',
    '=',
    '?',
    '%',
    '&',
    '#',
    '/',
  ],
  ...['=?utf-8?q?', '?=', '%00', '%2e', '&#0;', '-', '--', '+', '0', '9999999999', '1e999', 'NaN', 'null'],
  ...['__proto__', 'constructor', 'é', '😀', '\u0301', 'xn--', 'x'.repeat(300), ' '.repeat(300)],
]

const change: fc.Arbitrary<Change> = fc.record({
  at: fc.nat(100_000),
  drop: fc.oneof(fc.constant(0), fc.nat(30)),
  put: fc.oneof(fc.constantFrom(...PIECES), fc.string({ unit: 'binary', maxLength: 8 })),
})

/** One of these texts with some places altered, cut or repeated; now and then any text at all. */
export function mutated(texts: readonly string[]): fc.Arbitrary<string> {
  const altered = fc
    .tuple(fc.constantFrom(...texts), fc.array(change, { maxLength: 6 }))
    .map(([text, changes]) =>
      changes.reduce((result, { at, drop, put }) => {
        const place = at % (result.length + 1)
        return result.slice(0, place) + put + result.slice(place + drop)
      }, text),
    )
  const doubled = fc
    .tuple(altered, fc.nat(100_000), fc.integer({ min: 1, max: 200 }), fc.integer({ min: 1, max: 50 }))
    .map(([text, at, length, times]) => {
      const place = at % (text.length + 1)
      return text.slice(0, place) + text.slice(place, place + length).repeat(times) + text.slice(place)
    })
  return fc.oneof(
    { weight: 6, arbitrary: altered },
    { weight: 2, arbitrary: doubled },
    { weight: 1, arbitrary: fc.string({ unit: 'binary', maxLength: 200 }) },
  )
}
