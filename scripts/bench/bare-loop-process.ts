/**
 * What a developer writes without a queue: render and send, as fast as both go. Nothing is stored, nothing survives a
 * crash; the floor that Sluice is compared with.
 */
import type { BareOrder, BareReport } from './bare-loop.ts'
import { createLargeSender, createNumberedSender, IN_HAND } from './sender.ts'

const [url = '', mail] = process.argv.slice(2)
const send = mail === 'large' ? createLargeSender(url) : createNumberedSender(url)

async function sendAll(first: number, count: number): Promise<void> {
  let next = first
  const lane = async () => {
    while (next < first + count) {
      const n = next
      next += 1
      await send(n)
    }
  }
  await Promise.all(Array.from({ length: IN_HAND }, lane))
}

process.on('message', ({ first, count }: BareOrder) => {
  const startedAtNs = String(process.hrtime.bigint())
  void sendAll(first, count).then(() => process.send?.({ startedAtNs } satisfies BareReport))
})
process.on('disconnect', () => process.exit(0))
