import { nextMessage, startChild } from './child.ts'
import type { Guard } from './guard.ts'

export type LoadOrder = {
  readonly url: string
  readonly key: string
  readonly connections: number
  readonly seconds: number
  readonly isBuffered: boolean
}

export type LoadReport = {
  readonly accepted: number
  /** Connections that broke while an answer was due. */
  readonly broken: number
  /** Answers other than 200, by status. */
  readonly refused: Readonly<Record<string, number>>
  readonly perS: number
  readonly p50Ms: number
  readonly p99Ms: number
  /** CPU of the generator as a share of one core: near 1 it is the generator that is measured. */
  readonly busy: number
}

export type LoadGenerator = {
  run(order: LoadOrder): Promise<LoadReport>
  close(): void
}

export function startLoadGenerator(guard: Guard): LoadGenerator {
  const child = startChild(guard, './load-process.ts')
  return {
    run: (order) => {
      const report = nextMessage<LoadReport>(child)
      child.send(order)
      return report
    },
    close: () => child.disconnect(),
  }
}
