import { nextMessage, startChild } from './child.ts'
import type { RestTarget } from './doors/rest-door.ts'
import type { SqlDoor } from './doors/sql-door.ts'
import type { Guard } from './guard.ts'

export type LoadOrder = {
  readonly target:
    | ({ readonly by: 'rest' } & RestTarget)
    | { readonly by: 'sql'; readonly url: string; readonly door: SqlDoor }
  readonly connections: number
  readonly seconds: number
}

export type LoadReport = {
  readonly accepted: number
  /** Connections that broke while an answer was due. */
  readonly broken: number
  /** Answers other than 200, by status. */
  readonly refused: Readonly<Record<string, number>>
  /** Acceptances that did not say durable. */
  readonly notDurable: number
  readonly perS: number
  readonly p50Ms: number
  readonly p99Ms: number
  /** CPU of the generator as a share of one core: near 1 it is the generator that is measured. */
  readonly busy: number
}

/** A closed loop: each of so many connections hands in the next mail when it has heard of the last. */
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
