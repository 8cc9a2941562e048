import assert from 'node:assert/strict'
import { test } from 'node:test'
import { openPool } from '../../src/db/pool.ts'
import { createLog } from '../../src/log.ts'
import { startBoss } from '../../src/queue/boss.ts'
import { createTestDatabase } from '../support/database.ts'

test('pg-boss, which reads its list of queues once a minute, ends nothing when the database is away just then', async (t) => {
  const database = await createTestDatabase(t)
  const log = createLog('silent')
  const { pool, close } = openPool({ url: database.url, maxConnections: 1, role: undefined, log })
  database.beforeDrop(close)
  const boss = await startBoss(pool, log)
  database.beforeDrop(() => boss.stop({ graceful: false }))
  // What it then does, a minute later; Node ends a process whose `error` event nobody listens to.
  assert.doesNotThrow(() => boss.emit('error', new Error('timeout exceeded when trying to connect')))
})
