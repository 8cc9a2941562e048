import { setTimeout as delay } from 'node:timers/promises'
import { processSize } from './process-size.ts'
import type { Scene } from './run.ts'

type Queryable = {
  query<Row extends object>(text: string, values?: unknown[]): Promise<Row[]>
}

export type Vitals = {
  /** Resident memory of the largest process, in MB: at the end of the first quarter, and the most at any time. */
  readonly settledMb: number
  readonly mostMb: number
  /** Seconds: the longest that any message was seen being sent. */
  readonly longestSendS: number
}

const LOOK_MS = 500

/** Looks at the processes and at what is being sent until `finish`, which tells what was seen. */
export function watchVitals(
  scene: Pick<Scene, 'after'>,
  { query }: Queryable,
  pids: readonly number[],
): { finish(): Promise<Vitals> } {
  const memory: number[] = []
  let longestSendS = 0
  let isOver = false
  const look = async () => {
    while (!isOver) {
      memory.push(Math.max(...pids.map((pid) => processSize(pid).residentMb)))
      const [row] = await query<{ seconds: number | null }>(
        `select max(extract(epoch from clock_timestamp() - claimed_at))::double precision as seconds
         from mail.message where status = 'sending'`,
      )
      longestSendS = Math.max(longestSendS, row?.seconds ?? 0)
      await delay(LOOK_MS)
    }
  }
  const looking = look()
  // Whoever waits for it hears of it; a run that fails before has its own reason.
  looking.catch(() => undefined)
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
