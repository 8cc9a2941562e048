import { monitorEventLoopDelay } from 'node:perf_hooks'
import type { KillablePostgres } from '../../test/support/killable-postgres.ts'
import type { SpawnedService } from '../../test/support/service.ts'

/** A sentence for each process that ended, with its last words: whatever happens to Postgres, none may. */
export function endedAmong(services: readonly SpawnedService[]): string[] {
  return services
    .filter(({ process }) => process.exitCode !== null || process.signalCode !== null)
    .map(({ pid, output }) => `process ${pid} ended: ${output().slice(-2_000)}`)
}

/** How many messages were given to others because the worker that was sending them had not been heard of. */
export async function takenOver({ query }: KillablePostgres): Promise<number> {
  const [row] = await query<{ messages: number }>(
    "select count(*)::integer as messages from mail.event where type = 'recovered'",
  )
  return row?.messages ?? 0
}

/**
 * Whether this machine gave the run itself time to look: on a crowded one what comes late here says nothing about Sluice,
 * and is reported without being held against it.
 */
export function watchCrowding(): { isCrowded(): boolean; figures(): Record<string, string> } {
  const delays = monitorEventLoopDelay({ resolution: 20 })
  delays.enable()
  const isCrowded = () => delays.max > CROWDED_NS
  return {
    isCrowded,
    figures: (): Record<string, string> =>
      isCrowded() ? { 'not judged, as others kept this run from looking': 'what had no answer in time' } : {},
  }
}

const CROWDED_NS = 500e6
