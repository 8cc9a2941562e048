import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { test } from 'node:test'
import { openPool } from '../../src/db/pool.ts'
import { inTransaction } from '../../src/db/transaction.ts'
import { createLog } from '../../src/log.ts'
import { ensureQueues, startBoss, within } from '../../src/queue/boss.ts'
import { enqueueProcessing } from '../../src/queue/processing-jobs.ts'
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
    await enqueueProcessing(trx, messages)
    const [a = '', b = '', c = ''] = messages.map(({ id }) => id)
    const jobs = [
      { data: { ids: [a, b] }, priority: 6 },
      { data: { ids: [c] }, priority: 0 },
    ]
    await boss.insert('process.transactional', jobs, within(trx))
  })
  // Both of one transaction, and so of one moment.
  const jobs = await database.query<{ job: object }>(
    "select to_jsonb(j) - 'id' as job from pgboss.job j order by priority desc",
  )
  assert.equal(jobs.length, 4)
  const [urgent, urgentToo, slow, slowToo] = jobs.map(({ job }) => job)
  assert.deepEqual([urgentToo, slowToo], [urgent, slow])
})

test('no job goes to a queue that is not there, and nothing else of its statement is kept', async (t) => {
  const database = await createTestDatabase(t)
  const { db, close } = openPool({
    url: database.url,
    maxConnections: 2,
    role: undefined,
    log: createLog('silent'),
  })
  database.beforeDrop(close)
  await ensureQueues(db)
  const messages = ['transactional', 'unheard-of'].map((stream) => ({
    id: randomUUID(),
    stream,
    priority: 3,
  }))
  await assert.rejects(
    inTransaction(db, (trx) => enqueueProcessing(trx, messages)),
    { code: '55000', message: 'the queue process.unheard-of is not there yet' },
  )
  assert.deepEqual(await database.query('select from pgboss.job'), [])
})
