/** A sink that counts, and tells the moment at which a count was reached; nothing is kept. */
import type { SinkOrder, SinkReport } from './sink.ts'
import { listenForMail } from './smtp-lines.ts'

/** How often progress is reported when nobody waits for a count. */
const PROGRESS_MS = 250

let accepted = 0
let wanted = Number.POSITIVE_INFINITY
let reported = 0

function tell(report: SinkReport): void {
  process.send?.(report)
}

function accept(): void {
  accepted += 1
  if (accepted !== wanted) return
  wanted = Number.POSITIVE_INFINITY
  tell({ kind: 'reached', accepted, atNs: String(process.hrtime.bigint()) })
}

process.on('message', (order: SinkOrder) => {
  wanted = order.count
  if (accepted >= wanted) {
    wanted = Number.POSITIVE_INFINITY
    tell({ kind: 'reached', accepted, atNs: String(process.hrtime.bigint()) })
  }
})
process.on('disconnect', () => process.exit(0))
setInterval(() => {
  if (accepted === reported) return
  reported = accepted
  tell({ kind: 'progress', accepted })
}, PROGRESS_MS).unref()

tell({ kind: 'listening', port: await listenForMail(accept) })
