import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { closeSync, constants, openSync, readSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { LogOutput } from '../src/log-output.ts'
import { makeTestDirectory } from './support/database.ts'
import { eventually } from './support/eventually.ts'

const LINES = 20_000

test('a reader that comes late gets whole lines in their order, a megabyte of them, and how many are missing', async (t) => {
  const path = join(await makeTestDirectory(t), 'pipe')
  assert.equal(spawnSync('mkfifo', [path]).status, 0)
  const reader = openSync(path, constants.O_RDWR | constants.O_NONBLOCK)
  t.after(() => closeSync(reader))
  const missing: number[] = []
  const output = new LogOutput(openSync(path, 'w'), (dropped) => {
    missing.push(dropped)
    output.write('the end\n')
  })
  for (let n = 0; n < LINES; n += 1) output.write(`${String(n).padStart(99, '0')}\n`)
  const chunk = Buffer.alloc(65_536)
  let text = ''
  await eventually('the last line', async () => {
    try {
      text += chunk.toString('utf8', 0, readSync(reader, chunk))
    } catch (error) {
      assert.equal((error as NodeJS.ErrnoException).code, 'EAGAIN')
    }
    return text.endsWith('the end\n')
  })
  const numbers = text.split('\n').slice(0, -2).map(Number)
  assert.deepEqual(
    numbers,
    numbers.map((_, n) => n),
  )
  assert.ok(numbers.length > 10_000, `${numbers.length} lines were kept`)
  assert.deepEqual(missing, [LINES - numbers.length])
})
