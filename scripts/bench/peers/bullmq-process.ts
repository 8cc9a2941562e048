/** BullMQ as its documentation has it: jobs in bulk, finished ones removed, as many at once as the sender has in hand. */
import { Queue, Worker } from 'bullmq'
import { IN_HAND } from '../sender.ts'
import { runPeer } from './peer.ts'

const NAME = 'orders'
const JOB = {
  removeOnComplete: true,
  attempts: 3,
  backoff: { type: 'exponential', delay: 1_000 },
} as const

await runPeer(async (url) => {
  const { hostname, port } = new URL(url)
  const connection = { host: hostname, port: Number(port), maxRetriesPerRequest: null }
  const queue = new Queue(NAME, { connection })
  return {
    add: (orders) => queue.addBulk(orders.map((data) => ({ name: 'send', data, opts: JOB }))),
    work: (send) => {
      const worker = new Worker(NAME, ({ data }) => send(data).then(() => undefined), {
        connection,
        concurrency: IN_HAND,
      })
      worker.on('failed', (_job, error) => console.error('bullmq:', error.message))
      return worker.waitUntilReady()
    },
  }
})
