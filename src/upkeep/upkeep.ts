import type { Log } from '../log.ts'
import { Loop } from '../loop.ts'
import { createRound, type Duty } from './duty.ts'

/**
 * What keeps the rest healthy. Each process looks once a second at what it does for itself (the catalog, its rates, the
 * rescue of dead workers, the watch over the unlogged intake), and asks whether it leads; the one that does looks at
 * what one process should do (how much waits, partitions, what has served its time). Two loops: a long purge must
 * not keep a dead worker's mail waiting.
 */
const EACH_MS = 1_000

export type UpkeepDeps = {
  readonly log: Log
  readonly duties: readonly Duty[]
  readonly leadership: Leadership
}

export type Leadership = {
  /** True while this process leads, which lasts as long as it asks. */
  lead(): Promise<boolean>
  resign(): Promise<void>
}

export type Upkeep = { start(): void; stop(): Promise<void> }

export function createUpkeep({ log, duties, leadership }: UpkeepDeps): Upkeep {
  const now = () => performance.now()
  const own = createRound({ log, duties: duties.filter(({ isForLeader }) => !isForLeader), now })
  const common = createRound({ log, duties: duties.filter(({ isForLeader }) => isForLeader), now })
  const upkeep = new Loop({
    name: 'upkeep',
    log,
    idleMs: EACH_MS,
    round: async () => {
      await own()
      return false
    },
  })
  const leading = new Loop({
    name: 'leading',
    log,
    idleMs: EACH_MS,
    round: async () => {
      if (await leadership.lead()) await common()
      return false
    },
  })
  return {
    start() {
      upkeep.start()
      leading.start()
    },
    async stop() {
      await Promise.all([upkeep.stop(), leading.stop()])
      await leadership.resign().catch((error: unknown) => {
        log.debug({ error }, 'could not say that this process leads no more; the next leader waits a moment')
      })
    },
  }
}
