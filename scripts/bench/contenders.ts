/** Everybody who takes part in end-to-end: Sluice, the queues that a team would take instead, and no queue at all. */
import type { Client } from 'pg'
import { startBareLoop } from './bare-loop.ts'
import type { Contender, Turn } from './contender.ts'
import { orderMessage } from './order.ts'
import { type Peer, startPeer } from './peers.ts'
import { type BenchService, type Rig, startService } from './rig.ts'
import type { Sink } from './sink.ts'
import { firstSeq, untilSettled } from './stored.ts'

const INSERT_ROWS = 1_000

export type Stage = {
  readonly rig: Rig
  readonly sink: Sink
  readonly profileDir: string | undefined
}

/** `workers` processes; the first is also the API, as by default. */
export function sluice(stage: Stage, databaseUrl: string, client: Client, workers: number): Contender {
  const { rig, sink, profileDir } = stage
  return {
    name: `Sluice, ${processes(workers)}`,
    open: async () => {
      const services: BenchService[] = []
      while (services.length < workers) {
        const roles = services.length === 0 ? 'api,worker' : 'worker'
        services.push(await startService(rig, { databaseUrl, smtpUrl: sink.url, roles, profileDir }))
      }
      return {
        watched: [
          ...services.map(({ watched }) => ({ ...watched, name: 'sender' })),
          { ...rig.postgres, name: 'store' },
          { name: 'inserts', pid: process.pid },
        ],
        send: async (count) => {
          const before = sink.accepted()
          const seq = await firstSeq(client)
          const startedAt = process.hrtime.bigint()
          await insertOrders(client, count)
          const endedAt = await sink.reached(before + count)
          const { lost } = await untilSettled(client, seq, count)
          return {
            startedAt,
            endedAt,
            lost,
            duplicated: Math.max(0, sink.accepted() - before - count + lost),
          }
        },
        close: async () => {
          for (const service of services) await service.stop()
        },
      }
    },
  }
}

/** As an application would in a batch job: some rows a statement, each statement its own commit. */
async function insertOrders(client: Client, count: number): Promise<void> {
  for (let first = 0; first < count; first += INSERT_ROWS) {
    const rows = Math.min(INSERT_ROWS, count - first)
    const messages = Array.from({ length: rows }, (_, index) => orderMessage(first + index))
    await client.query({
      name: 'insert_orders',
      text: '/* bench.insert */ insert into mail.outbox (message) select m::json from unnest($1::text[]) m',
      values: [messages],
    })
  }
}

/** Another queue, with render-and-send as its task. What it has finished by then shows in the sink alone. */
export function queue(
  { rig, sink }: Stage,
  peer: Peer,
  store: Awaited<ReturnType<Peer['open']>>,
  workers: number,
): Contender {
  return {
    name: `${peer.name}, ${processes(workers)}`,
    open: async () => {
      const { add, close, watched } = await startPeer(rig, peer, {
        url: store.url,
        smtpUrl: sink.url,
        workers,
      })
      return {
        watched: [...watched, { ...store.watched, name: 'store' }],
        send: (count) => sendThrough(sink, count, () => add(0, count)),
        close,
      }
    },
  }
}

/** No queue: see bare-loop-process.ts. */
export function bareLoop({ rig, sink }: Stage): Contender {
  return {
    name: BARE_LOOP,
    open: async () => {
      const loop = startBareLoop(rig.guard, sink.url)
      return {
        watched: [{ ...loop.watched, name: 'sender' }],
        send: (count) => sendThrough(sink, count, () => loop.send(0, count)),
        close: async () => loop.close(),
      }
    },
  }
}

export const BARE_LOOP = 'bare loop'

async function sendThrough(sink: Sink, count: number, start: () => Promise<bigint>): Promise<Turn> {
  const before = sink.accepted()
  const reached = sink.reached(before + count)
  const startedAt = await start()
  const endedAt = await reached
  const accepted = sink.accepted() - before
  return {
    startedAt,
    endedAt,
    lost: Math.max(0, count - accepted),
    duplicated: Math.max(0, accepted - count),
  }
}

function processes(workers: number): string {
  return workers === 1 ? 'one process' : `${workers} worker processes`
}
