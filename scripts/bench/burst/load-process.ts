/** See load.ts: two open loops over connections of their own, so that no reset waits behind orders on this side. */
import { openRestDoor } from '../doors/rest-door.ts'
import { openSqlDoor } from '../doors/sql-door.ts'
import { arrivals, everySoOften } from './arrivals.ts'
import type { BurstLoadNews, BurstLoadOrder, BurstLoadWish } from './load.ts'
import { mailText } from './mail.ts'
import { monotonicMs } from './moments.ts'
import { OpenLoop } from './open-loop.ts'

const RESET_CONNECTIONS = 8
const TICK_MS = 1
const PROGRESS_MS = 250
/** The first arrivals come a moment after the start, when every connection has been made ready. */
const HEAD_START_MS = 200

let order: OpenLoop | undefined
let reset: OpenLoop | undefined
let lateMs = 0
let cpu = 0
let offeringMs = 0

function tell(news: BurstLoadNews): void {
  process.send?.(news)
}

function start(wanted: BurstLoadOrder): void {
  const { url, apiKey, enqueueUrl, connections, phases, resetEachMs, streams } = wanted
  const startMs = monotonicMs() + HEAD_START_MS
  const openRest = () => openRestDoor({ url, apiKey })
  const open = () => (enqueueUrl === undefined ? openRest() : openSqlDoor(enqueueUrl, 'outbox'))
  const doors = Array.from({ length: connections }, open)
  const resetDoors = Array.from({ length: RESET_CONNECTIONS }, openRest)
  const asked = resetEachMs === undefined ? [] : everySoOften(resetEachMs, startMs)
  const loops = [
    new OpenLoop('order', doors, arrivals(phases, startMs), (n) => mailText('order', n, streams)),
    new OpenLoop('reset', resetDoors, asked, (n) => mailText('reset', n, streams)),
  ] as const
  ;[order, reset] = loops
  const cpuBefore = process.cpuUsage()
  let tickedMs = startMs
  setInterval(() => {
    const now = monotonicMs()
    lateMs = Math.max(lateMs, now - tickedMs - TICK_MS)
    tickedMs = Math.max(now, startMs)
    for (const loop of loops) loop.tick(now)
  }, TICK_MS)
  setInterval(() => {
    const isDone = loops[0].isDone
    if (!isDone) {
      const { user, system } = process.cpuUsage(cpuBefore)
      cpu = (user + system) / 1e3
      offeringMs = monotonicMs() - startMs
    }
    const [ofOrders, ofResets] = loops.map(({ offered, accepted, failed }) => ({ offered, accepted, failed }))
    if (ofOrders !== undefined && ofResets !== undefined)
      tell({ kind: 'progress', order: ofOrders, reset: ofResets, isDone: loops.every((loop) => loop.isDone) })
  }, PROGRESS_MS)
  tell({ kind: 'started', atMs: startMs })
}

process.on('message', (wish: BurstLoadWish) => {
  if (wish.kind === 'start') start(wish.order)
  if (wish.kind === 'end resets') reset?.end()
  if (wish.kind === 'report' && order !== undefined && reset !== undefined) {
    tell({ kind: 'report', order: order.report(), reset: reset.report(), busy: cpu / offeringMs, lateMs })
  }
})
process.on('disconnect', () => process.exit(0))
