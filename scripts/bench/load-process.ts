/** See load.ts. Costs little: bodies are put together beforehand, connections opened before the clock runs. */
import type { Door } from './doors/door.ts'
import { openRestDoor } from './doors/rest-door.ts'
import { openSqlDoor } from './doors/sql-door.ts'
import type { LoadOrder, LoadReport } from './load.ts'
import { orderMessage } from './order.ts'
import { percentile } from './statistics.ts'

const BODIES = Array.from({ length: 200 }, (_, n) => ({ text: orderMessage(n) }))

type Tally = {
  readonly latenciesMs: number[]
  readonly refused: Map<string, number>
  broken: number
  notDurable: number
}

function emptyTally(): Tally {
  return { latenciesMs: [], refused: new Map(), broken: 0, notDurable: 0 }
}

async function handInOne(door: Door, n: number, tally: Tally): Promise<void> {
  const sentAt = performance.now()
  const { status, isDurable } = await door.handIn(BODIES[n % BODIES.length] ?? { text: '' })
  if (status === 200) {
    tally.latenciesMs.push(performance.now() - sentAt)
    if (!isDurable) tally.notDurable += 1
  } else if (status === 0) tally.broken += 1
  else tally.refused.set(String(status), (tally.refused.get(String(status)) ?? 0) + 1)
}

async function drive(door: Door, first: number, untilMs: number, tally: Tally): Promise<void> {
  for (let n = first; performance.now() < untilMs; n += 1) await handInOne(door, n, tally)
}

async function run({ target, connections, seconds }: LoadOrder): Promise<LoadReport> {
  const open = () => (target.by === 'rest' ? openRestDoor(target) : openSqlDoor(target.url, target.door))
  const doors = Array.from({ length: connections }, open)
  const [opening, tally] = [emptyTally(), emptyTally()]
  // One mail each opens the connection; it counts as accepted, and its time does not.
  await Promise.all(doors.map((door, index) => handInOne(door, index, opening)))
  const cpuBefore = process.cpuUsage()
  const startedAt = performance.now()
  const untilMs = startedAt + seconds * 1_000
  await Promise.all(doors.map((door, index) => drive(door, index, untilMs, tally)))
  const tookS = (performance.now() - startedAt) / 1_000
  const cpu = process.cpuUsage(cpuBefore)
  for (const door of doors) door.close()
  return {
    accepted: opening.latenciesMs.length + tally.latenciesMs.length,
    broken: opening.broken + tally.broken,
    refused: Object.fromEntries(tally.refused),
    notDurable: tally.notDurable,
    perS: tally.latenciesMs.length / tookS,
    p50Ms: percentile(tally.latenciesMs, 50),
    p99Ms: percentile(tally.latenciesMs, 99),
    busy: (cpu.user + cpu.system) / 1e6 / tookS,
  }
}

process.on('message', (order: LoadOrder) => {
  void run(order).then((report) => process.send?.(report))
})
process.on('disconnect', () => process.exit(0))
