import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { test } from 'node:test'
import { openPool } from '../../src/db/pool.ts'
import { inTransaction } from '../../src/db/transaction.ts'
import { createLog } from '../../src/log.ts'
import { ensureQueues, startBoss } from '../../src/queue/boss.ts'
import { enqueueProcessing, insertProcessing, processingJobs } from '../../src/queue/processing-jobs.ts'
import { createTestDatabase } from '../support/database.ts'

test('a job that is written by the statement that stores its message is as pg-boss itself writes it', async (t) => {
  const database = await createTestDatabase(t)
  const log = createLog('silent')
  const { db, pool, close } = openPool({ url: database.url, maxConnections: 2, role: undefined, log })
  database.beforeDrop(close)
  await ensureQueues(db)
  const boss = await startBoss(pool, log)
  database.beforeDrop(() => boss.stop({ graceful: false }))
  const messages = [3, 3, 9].map((priority) => ({ id: randomUUID(), stream: 'transactional', priority }))
  await inTransaction(db, async (trx) => {
    await enqueueProcessing(boss, trx, messages)
    await trx.executeQuery(insertProcessing(processingJobs(messages)).compile(trx))
  })
  // Both of one transaction, and so of one moment.
  const jobs = await database.query<{ job: object }>(
    "select to_jsonb(j) - 'id' as job from pgboss.job j order by priority desc",
  )
  assert.equal(jobs.length, 4)
  const [urgent, urgentToo, slow, slowToo] = jobs.map(({ job }) => job)
  assert.deepEqual([urgentToo, slowToo], [urgent, slow])
})
