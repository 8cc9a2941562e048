import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Postmaster } from '../../src/db/embedded-postmaster.ts'
import { Supervisor } from '../../src/db/embedded-supervisor.ts'

const HOUR_MS = 3_600_000

test('a server that was well for an hour and cannot start any more is tried ever more seldom, and the log says why', async (t) => {
  const ended: Postmaster = { pid: undefined, ended: Promise.resolve('exit code 1'), isAdopted: false }
  const healthy = Promise.withResolvers<string>()
  const [backoffs, reasons] = [[] as number[], [] as string[]]
  const enough = Promise.withResolvers<void>()
  let startsLeft = 3
  const supervisor = new Supervisor(
    {
      raise: () => ended,
      waitUntilReady: async () => {
        startsLeft -= 1
        if (startsLeft === 0) enough.resolve()
        throw new Error('ended before it was ready')
      },
      reasonOfEnd: async () => 'there is no room on the disk',
      log: {
        info: () => undefined,
        warn: (details, message) => {
          if ('backoffMs' in details) backoffs.push(Number(details.backoffMs))
          else reasons.push(message)
        },
      },
    },
    { pid: undefined, ended: healthy.promise, isAdopted: false },
  )
  const now = performance.now()
  t.mock.method(performance, 'now', () => now + HOUR_MS)
  healthy.resolve('SIGKILL')
  await enough.promise
  await supervisor.stop()
  assert.deepEqual(backoffs.slice(0, 3), [100, 200, 400])
  assert.match(reasons[0] ?? '', /could not be started again: there is no room on the disk$/)
})
