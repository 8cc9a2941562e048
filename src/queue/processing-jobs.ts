import type { Catalog } from '../catalog.ts'
import type { Transaction } from '../db/transaction.ts'
import type { Meter } from '../meter.ts'
import type { Bells } from './bells.ts'
import { type Boss, within } from './boss.ts'
import { jobPriority, processQueue, urgentBell } from './queues.ts'

/** Small enough that a stream's batches spread over its processing slots and processes. */
const IDS_PER_JOB = 100

/** An accepted message, to be processed. */
export type Processable = { readonly id: string; readonly stream: string; readonly priority: number }

/** Puts messages on the processing queues of their streams, in batches of one priority. */
export async function enqueueProcessing(
  boss: Boss,
  trx: Transaction,
  messages: readonly Processable[],
): Promise<void> {
  for (const [stream, rows] of Map.groupBy(messages, (row) => row.stream)) {
    const jobs = []
    for (const [priority, alike] of Map.groupBy(rows, (row) => row.priority)) {
      for (let start = 0; start < alike.length; start += IDS_PER_JOB) {
        const ids = alike.slice(start, start + IDS_PER_JOB).map((row) => row.id)
        jobs.push({ data: { ids }, priority: jobPriority(priority) })
      }
    }
    await boss.insert(processQueue(stream), jobs, within(trx))
  }
}

/** Once that has committed: wakes those who process, and counts what they got. */
export function announceProcessing(
  deps: {
    readonly bells: Bells
    readonly meter: Meter
    readonly catalog: { readonly current: Catalog }
  },
  messages: readonly Processable[],
): void {
  for (const [stream, rows] of Map.groupBy(messages, (row) => row.stream)) {
    deps.meter.cameIn({ stage: 'processing', stream, provider: '' }, rows.length)
    const ordinary = deps.catalog.current.streams.get(stream)?.priority ?? 0
    const isUrgent = (row: Processable) => row.priority < ordinary
    if (rows.some(isUrgent)) deps.bells.ring(urgentBell(stream))
    if (!rows.every(isUrgent)) deps.bells.ring(processQueue(stream))
  }
}
