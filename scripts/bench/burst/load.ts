import { nextMessage, startChild } from '../child.ts'
import type { Watched } from '../cpu.ts'
import type { Guard } from '../guard.ts'
import type { Phase } from './arrivals.ts'
import type { Streams } from './mail.ts'
import type { LoopReport } from './open-loop.ts'

export type BurstLoadOrder = {
  readonly url: string
  readonly apiKey: string
  /** Of a user that may append to the outbox: orders go in by SQL. Absent: by REST, as the resets do always. */
  readonly enqueueUrl: string | undefined
  readonly connections: number
  readonly phases: readonly Phase[]
  /** Absent: nobody asks for a new password. */
  readonly resetEachMs: number | undefined
  readonly streams: Streams
}

export type Offered = { readonly offered: number; readonly accepted: number; readonly failed: number }

export type BurstLoadNews =
  | { readonly kind: 'started'; readonly atMs: number }
  | { readonly kind: 'progress'; readonly order: Offered; readonly reset: Offered; readonly isDone: boolean }
  | ({ readonly kind: 'report' } & BurstLoadReport)

export type BurstLoadReport = {
  readonly order: LoopReport
  readonly reset: LoopReport
  /** CPU of the generator as a share of one core while it offered; and how late its own clock was at most. */
  readonly busy: number
  readonly lateMs: number
}

export type BurstLoadWish =
  | { readonly kind: 'start'; readonly order: BurstLoadOrder }
  | { readonly kind: 'end resets' }
  | { readonly kind: 'report' }

/** The people in the shop: a process that offers orders and resets at their moments. */
export type BurstLoad = {
  readonly watched: Watched
  /** Resolves with the moment at which the first phase began. */
  start(order: BurstLoadOrder): Promise<number>
  /** As of a quarter of a second ago. */
  progress(): { readonly order: Offered; readonly reset: Offered; readonly isDone: boolean }
  endResets(): void
  report(): Promise<BurstLoadReport>
  close(): void
}

const NONE: Offered = { offered: 0, accepted: 0, failed: 0 }

export function startBurstLoad(guard: Guard): BurstLoad {
  const child = startChild(guard, './burst/load-process.ts')
  let latest: ReturnType<BurstLoad['progress']> = { order: NONE, reset: NONE, isDone: false }
  const reported = Promise.withResolvers<BurstLoadReport>()
  reported.promise.catch(() => undefined)
  child.on('message', (news: BurstLoadNews) => {
    if (news.kind === 'progress') latest = news
    if (news.kind === 'report') reported.resolve(news)
  })
  child.on('exit', () => reported.reject(new Error('the load generator of the benchmark ended')))
  const wish = (wished: BurstLoadWish) => child.send(wished)
  return {
    watched: { name: 'generator', pid: child.pid ?? 0 },
    start: async (order) => {
      const next = nextMessage<BurstLoadNews>(child)
      wish({ kind: 'start', order })
      const news = await next
      if (news.kind !== 'started') throw new Error('the load generator spoke before it began')
      return news.atMs
    },
    progress: () => latest,
    endResets: () => wish({ kind: 'end resets' }),
    report: () => {
      wish({ kind: 'report' })
      return reported.promise
    },
    close: () => child.disconnect(),
  }
}
