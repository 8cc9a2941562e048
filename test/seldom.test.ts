import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createLog } from '../src/log.ts'
import { Seldom } from '../src/seldom.ts'

test('what happens a thousand times is told once a minute, with how often, and each kind for itself', () => {
  const lines: { msg: string; timesMore?: number; n: number }[] = []
  let now = 0
  const seldom = new Seldom(
    createLog('info', (line) => lines.push(JSON.parse(line))),
    () => now,
  )
  for (let n = 0; n < 1_000; n += 1) {
    now = n * 100
    seldom.tell('warn', 'full', { n }, 'the disk is full')
  }
  seldom.tell('error', 'other', { n: 0 }, 'something else')
  assert.deepEqual(
    lines.map(({ msg, n, timesMore }) => [msg, n, timesMore]),
    [
      ['the disk is full', 0, undefined],
      ['the disk is full', 600, 599],
      ['something else', 0, undefined],
    ],
  )
})
