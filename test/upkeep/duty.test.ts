import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createLog } from '../../src/log.ts'
import { createRound, type Duty } from '../../src/upkeep/duty.ts'

function duty(name: string, everyMs: number, run: () => Promise<boolean>): Duty {
  return { name, everyMs, isForLeader: false, run }
}

test('each duty is done in its own time, and at once again when there is more to do', async () => {
  let now = 0
  const done: string[] = []
  let purges = 3
  const round = createRound({
    log: createLog('silent'),
    now: () => now,
    duties: [
      duty('often', 1_000, async () => {
        done.push(`often ${now}`)
        return false
      }),
      duty('purge', 3_600_000, async () => {
        done.push(`purge ${now}`)
        purges -= 1
        return purges > 0
      }),
    ],
  })
  for (now of [0, 500, 1_000, 2_000]) await round()
  assert.deepEqual(done, ['often 0', 'purge 0', 'purge 500', 'often 1000', 'purge 1000', 'often 2000'])
})

test('a duty that fails keeps no other from its turn, and waits for its own', async () => {
  let now = 0
  const done: number[] = []
  let tries = 0
  const round = createRound({
    log: createLog('silent'),
    now: () => now,
    duties: [
      duty('broken', 10_000, async () => {
        tries += 1
        throw new Error('no')
      }),
      duty('sound', 1_000, async () => {
        done.push(now)
        return false
      }),
    ],
  })
  for (now of [0, 1_000, 2_000, 10_000]) await round()
  assert.deepEqual(done, [0, 1_000, 2_000, 10_000])
  assert.equal(tries, 2)
})
