import { nextMessage, startChild } from '../child.ts'
import type { Watched } from '../cpu.ts'
import type { Guard } from '../guard.ts'
import { KINDS, type Kind } from './mail.ts'
import { Moments } from './moments.ts'

export type BurstSinkReport =
  | { readonly kind: 'listening'; readonly port: number }
  | { readonly kind: 'progress'; readonly arrived: Readonly<Record<Kind, number>> }
  | {
      readonly kind: 'arrivals'
      readonly arrivals: Readonly<Record<Kind, string>>
      readonly twice: Readonly<Record<Kind, number>>
      readonly strangers: number
    }

/** What came, and when. */
export type Arrivals = {
  readonly at: Readonly<Record<Kind, Moments>>
  /** Mails that came again after the first time. */
  readonly twice: Readonly<Record<Kind, number>>
  /** Mails that are none of the burst's. */
  readonly strangers: number
}

/** Where the mail of the burst ends. */
export type BurstSink = {
  readonly url: string
  readonly watched: Watched
  /** Different mails of a kind, as of a quarter of a second ago. */
  arrived(kind: Kind): number
  arrivals(): Promise<Arrivals>
  close(): void
}

export async function startBurstSink(guard: Guard): Promise<BurstSink> {
  const child = startChild(guard, './burst/sink-process.ts')
  const first = await nextMessage<BurstSinkReport>(child)
  if (first.kind !== 'listening') throw new Error('the sink reported before it listened')
  let arrived: Readonly<Record<Kind, number>> = { order: 0, reset: 0, news: 0 }
  let answer = Promise.withResolvers<Arrivals>()
  child.on('message', (report: BurstSinkReport) => {
    if (report.kind === 'progress') arrived = report.arrived
    if (report.kind === 'arrivals') answer.resolve(arrivalsOf(report))
  })
  child.on('exit', () => answer.reject(new Error('the sink of the benchmark ended')))
  answer.promise.catch(() => undefined)
  return {
    url: `smtp://127.0.0.1:${first.port}`,
    watched: { name: 'sink', pid: child.pid ?? 0 },
    arrived: (kind) => arrived[kind],
    arrivals: () => {
      answer = Promise.withResolvers()
      child.send({})
      return answer.promise
    },
    close: () => child.disconnect(),
  }
}

function arrivalsOf({ arrivals, twice, strangers }: BurstSinkReport & { kind: 'arrivals' }): Arrivals {
  const at = Object.fromEntries(KINDS.map((kind) => [kind, Moments.fromText(arrivals[kind])]))
  return { at: at as Record<Kind, Moments>, twice, strangers }
}
