/** Plain pg-boss in batches, with the settings that keep it busy: a full batch is followed by the next one at once. */
import { PgBoss } from 'pg-boss'
import type { Order } from '../order.ts'
import { IN_HAND } from '../sender.ts'
import { runPeer } from './peer.ts'

const QUEUE = 'orders'
/** A worker waits for its whole batch: two of them overlap, so that the connections stay busy. */
const WORKERS = 2
const BATCH = 5 * IN_HAND

await runPeer(async (url) => {
  const boss = new PgBoss(url)
  boss.on('error', (error) => console.error('pg-boss:', error.message))
  await boss.start()
  await boss.createQueue(QUEUE, { partition: true, retryLimit: 3, retryBackoff: true })
  return {
    add: (orders) =>
      boss.insert(
        QUEUE,
        orders.map((data) => ({ data })),
      ),
    work: (send) =>
      boss.work<Order>(
        QUEUE,
        {
          batchSize: BATCH,
          localConcurrency: WORKERS,
          pollingIntervalSeconds: 0.5,
          burstWhenBatchFull: true,
        },
        async (jobs) => {
          await Promise.all(jobs.map(({ data }) => send(data)))
        },
      ),
  }
})
