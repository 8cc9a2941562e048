/** graphile-worker with what its page on performance recommends: a local queue, and completions in batches. */
import { Logger, makeWorkerUtils, run } from 'graphile-worker'
import type { Order } from '../order.ts'
import { IN_HAND } from '../sender.ts'
import { runPeer } from './peer.ts'

const TASK = 'send'
const ATTEMPTS = 3
const silent = new Logger(() => (level, message) => {
  if (level === 'error') console.error('graphile-worker:', message)
})

await runPeer(async (connectionString, role) => {
  const utils = await makeWorkerUtils({ connectionString, logger: silent })
  if (role === 'producer') await utils.migrate()
  return {
    add: (orders) =>
      utils.addJobs(orders.map((payload) => ({ identifier: TASK, payload, maxAttempts: ATTEMPTS }))),
    work: (send) =>
      run({
        logger: silent,
        preset: {
          worker: {
            connectionString,
            concurrentJobs: IN_HAND,
            maxPoolSize: IN_HAND + 2,
            localQueue: { size: 10 * IN_HAND },
            completeJobBatchDelay: 50,
          },
        },
        taskList: {
          [TASK]: async (order) => {
            await send(order as Order)
          },
        },
      }),
  }
})
