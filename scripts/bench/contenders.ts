/** Everybody who takes part in a contest: Sluice, the queues that a team would take instead, and no queue at all. */
import type { Client } from 'pg'
import { startBareLoop } from './bare-loop.ts'
import type { Contender, Turn } from './contender.ts'
import { insertMails } from './inserts.ts'
import { largeMessage } from './large.ts'
import { orderMessage } from './order.ts'
import { type Peer, type Store, startPeer } from './peers.ts'
import { type BenchService, type Rig, startService } from './rig.ts'
import type { Sink } from './sink.ts'
import { firstSeq, untilSettled } from './stored.ts'

/** What Sluice is handed: order confirmations a thousand at once, a megabyte or so, and large mails fifty at once, five megabytes. */
const MAILS = {
  order: { messageOf: orderMessage, rowsAtOnce: 1_000 },
  large: { messageOf: largeMessage, rowsAtOnce: 50 },
} as const

/** Order confirmations, or mails of 100 KB. */
export type MailKind = keyof typeof MAILS

export type Stage = {
  readonly rig: Rig
  readonly sink: Sink
  readonly profileDir: string | undefined
  readonly mail: MailKind
}

/** `workers` processes; the first is also the API, as by default. */
export function sluice(stage: Stage, databaseUrl: string, client: Client, workers: number): Contender {
  const { rig, sink, profileDir, mail } = stage
  const { messageOf, rowsAtOnce } = MAILS[mail]
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
          await insertMails(client, count, messageOf, rowsAtOnce)
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

/** Another queue, with render-and-send as its task. What it has finished by then shows in the sink alone. */
export function queue({ rig, sink }: Stage, peer: Peer, store: Store, workers: number): Contender {
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
export function bareLoop({ rig, sink, mail }: Stage): Contender {
  return {
    name: BARE_LOOP,
    open: async () => {
      const loop = startBareLoop(rig.guard, sink.url, mail)
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
  return workers === 1 ? 'one process' : 'two processes'
}
