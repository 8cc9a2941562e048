import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createLog } from '../src/log.ts'
import { Loop } from '../src/loop.ts'

test('a loop that fails and works by turns is told of once, and goes on', async () => {
  const lines: { level: string; msg: string }[] = []
  const enough = Promise.withResolvers<void>()
  let rounds = 0
  const loop = new Loop({
    name: 'by turns',
    log: createLog('info', (line) => lines.push(JSON.parse(line))),
    idleMs: 1,
    round: async () => {
      rounds += 1
      if (rounds === 6) enough.resolve()
      if (rounds % 2 === 1) throw new Error('no room')
      return false
    },
  })
  loop.start()
  await enough.promise
  await loop.stop()
  assert.deepEqual(
    lines.map(({ level, msg }) => [level, msg]),
    [
      ['warn', 'loop failed, will try again'],
      ['info', 'loop works again'],
    ],
  )
})
