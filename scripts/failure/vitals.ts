import { setTimeout as delay } from 'node:timers/promises'
import type { SpawnedService } from '../../test/support/service.ts'
import { processSize } from './process-size.ts'
import type { Queryable } from './queryable.ts'
import type { Scene } from './run.ts'

export type Vitals = {
  /** Resident memory of the largest process, in MB: at the end of the first quarter, and the most at any time. */
  readonly settledMb: number
  readonly mostMb: number
  /** Seconds: the longest that any message was seen being sent. */
  readonly longestSendS: number
}

const LOOK_MS = 500

const LAST_WORDS = 2_000

/** Nothing that a provider or a template does may end a process. */
function assertAlive(service: SpawnedService): void {
  const { exitCode, signalCode } = service.process
  if (exitCode === null && signalCode === null) return
  throw new Error(`a process ended with ${signalCode ?? exitCode}: ${service.output().slice(-LAST_WORDS)}`)
}

/** Looks at the processes and at what is being sent until `finish`, which tells what was seen. */
export function watchVitals(
  scene: Pick<Scene, 'after' | 'say'>,
  { query }: Queryable,
  services: readonly SpawnedService[],
): { finish(): Promise<Vitals> } {
  const memory: number[] = []
  let longestSendS = 0
  let isOver = false
  const look = async () => {
    while (!isOver) {
      for (const service of services) assertAlive(service)
      memory.push(Math.max(...services.map(({ pid }) => processSize(pid).residentMb)))
      const [row] = await query<{ seconds: number | null }>(
        `select max(extract(epoch from clock_timestamp() - claimed_at))::double precision as seconds
         from mail.message where status = 'sending'`,
      )
      longestSendS = Math.max(longestSendS, row?.seconds ?? 0)
      await delay(LOOK_MS)
    }
  }
  const looking = look()
  // Told at once, and again to whoever waits for it at the end.
  looking.catch((error: Error) => scene.say(error.message))
  scene.after(() => {
    isOver = true
  })
  return {
    finish: async () => {
      isOver = true
      await looking
      return {
        settledMb: memory[Math.floor(memory.length / 4)] ?? 0,
        mostMb: Math.max(...memory),
        longestSendS,
      }
    },
  }
}
