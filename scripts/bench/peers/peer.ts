/**
 * What every queue's process does, whatever the queue: as a producer it adds orders when it is told to, in bulk; as a worker it
 * renders and sends. `node <queue>-process.ts producer|worker <queue's URL> <SMTP URL>`
 */

import { type Order, order } from '../order.ts'
import type { PeerOrder, PeerReport } from '../peers.ts'
import { createSender } from '../sender.ts'

/** As many orders as Sluice's inserts put into one statement. */
const BULK = 1_000

export type Queue = {
  /** Stores these orders, with whatever durability the queue has by default. */
  add(orders: readonly Order[]): Promise<unknown>
  /** Works until the process ends; resolves once it listens. */
  work(send: (order: Order) => Promise<unknown>): Promise<unknown>
}

export async function runPeer(open: (url: string, role: string) => Promise<Queue>): Promise<void> {
  const [role = '', url = '', smtpUrl = ''] = process.argv.slice(2)
  process.on('disconnect', () => process.exit(0))
  const queue = await open(url, role)
  if (role === 'worker') await queue.work(createSender(smtpUrl))
  process.on('message', ({ first, count }: PeerOrder) => void produce(queue, first, count))
  process.send?.({ kind: 'ready' } satisfies PeerReport)
}

async function produce(queue: Queue, first: number, count: number): Promise<void> {
  const startedAtNs = String(process.hrtime.bigint())
  for (let done = 0; done < count; done += BULK) {
    const orders = Array.from({ length: Math.min(BULK, count - done) }, (_, n) => order(first + done + n))
    await queue.add(orders)
  }
  process.send?.({ kind: 'added', startedAtNs } satisfies PeerReport)
}
