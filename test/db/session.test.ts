import assert from 'node:assert/strict'
import { test } from 'node:test'
import { WorkerSession } from '../../src/db/session.ts'
import { createLog } from '../../src/log.ts'
import { createTestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'

test('a worker whose row was deleted registers anew, though its connection lives', async (t) => {
  const database = await createTestDatabase(t)
  const session = await WorkerSession.open({
    url: database.url,
    role: undefined,
    log: createLog('silent'),
    onBell: () => undefined,
    heartbeatMs: 50,
  })
  database.beforeDrop(() => session.close(true))
  const before = session.number
  await database.query('delete from mail.worker where number = $1', [before])
  const rows = await eventually('a new row', async () => {
    const found = await database.query<{ number: number }>('select number from mail.worker')
    return found.length > 0 && found
  })
  await eventually('its number', async () => session.number !== before)
  assert.deepEqual(rows, [{ number: session.number }])
})
