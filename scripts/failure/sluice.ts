import { type KillablePostgres, startKillablePostgres } from '../../test/support/killable-postgres.ts'
import { type Launch, type SpawnedService, spawnService } from '../../test/support/service.ts'
import { NODE_OPTIONS } from '../bench/child.ts'
import { freePort } from '../bench/free-port.ts'
import type { Scene } from './run.ts'

/** A Postgres with the durability that users get, to be killed at will. */
export async function startPostgres(
  scene: Scene,
  settings: Record<string, string> = {},
): Promise<KillablePostgres> {
  const server = await startKillablePostgres(scene, settings)
  scene.guard?.watchData(server.dataDir)
  return server
}

/** Sluice as users run it, with what a run changes. Logs from `info` on, so that a long run does not drown. */
export async function spawnSluice(
  scene: Scene,
  databaseUrl: string,
  environment: Readonly<Record<string, string>>,
  launch: Launch = {},
): Promise<SpawnedService> {
  const nodeOptions = [...NODE_OPTIONS, ...(launch.nodeOptions ?? [])]
  const started = { ...launch, nodeOptions }
  const service = await spawnService(scene, databaseUrl, { LOG_LEVEL: 'info', ...environment }, started)
  scene.guard?.watch(service.process)
  return service
}

/** A process that somebody starts again when it ends, as a supervisor would: at the same address. */
export type Slot = {
  current(): SpawnedService
  /** The number of the worker in it, as in `mail.worker`; for workers only. */
  number(): Promise<number>
  /** Sends the signal, waits for the end, starts another; resolves with the moment of the signal, in Unix milliseconds, once that is ready. */
  replace(signal: NodeJS.Signals): Promise<number>
  /** All that its processes wrote. */
  output(): string
}

export async function openSlot(
  scene: Scene,
  databaseUrl: string,
  environment: Readonly<Record<string, string>>,
): Promise<Slot> {
  const fixed = { PORT: String(await freePort()), ...environment }
  let service = await spawnSluice(scene, databaseUrl, fixed)
  let before = ''
  return {
    current: () => service,
    number: async () => Number((await service.logged('worker registered')).worker),
    replace: async (signal) => {
      const at = Date.now()
      process.kill(service.pid, signal)
      await service.ended
      before += service.output()
      service = await spawnSluice(scene, databaseUrl, fixed)
      return at
    },
    output: () => before + service.output(),
  }
}
