import { availableParallelism, cpus, loadavg, release, totalmem } from 'node:os'
import { withClient } from './rig.ts'
import { median, readable } from './statistics.ts'

const COMMITS = 100

export type Machine = {
  readonly cores: number
  readonly cpu: string
  readonly memoryGb: number
  readonly system: string
  readonly node: string
  readonly postgres: string
  /** Median of one small commit after the other: mostly what the disk takes to make it durable. */
  readonly commitMs: number
  /** Processes that wanted a core in the minute before: near 0 when the machine is quiet. */
  readonly loadBefore: number
}

/** Call first of all: the load is that of others only before the benchmark adds its own. */
export function loadOfOthers(): number {
  return loadavg()[0] ?? 0
}

/** `url` is a database with the durability that is measured; a small table is left in it. */
export async function describeMachine(url: string, loadBefore: number): Promise<Machine> {
  const { postgres, commitMs } = await withClient(url, async (client) => {
    const { rows } = await client.query<{ server_version: string }>('show server_version')
    await client.query('create table commit_cost (n integer)')
    const times: number[] = []
    for (let n = 0; n < COMMITS; n += 1) {
      const startedAt = performance.now()
      await client.query('insert into commit_cost values ($1)', [n])
      times.push(performance.now() - startedAt)
    }
    return { postgres: rows[0]?.server_version ?? '', commitMs: median(times) }
  })
  return {
    cores: availableParallelism(),
    cpu: cpus()[0]?.model ?? 'unknown',
    memoryGb: Math.round(totalmem() / 2 ** 30),
    system: `${process.platform} ${release()}`,
    node: process.version,
    postgres,
    commitMs,
    loadBefore,
  }
}

export function machineText(machine: Machine): string {
  const { cores, cpu, memoryGb, system, node, postgres, commitMs, loadBefore } = machine
  return [
    `${cores} cores of ${cpu}, ${memoryGb} GB, ${system}, Node ${node}, PostgreSQL ${postgres} with default durability.`,
    `One small commit takes ${readable(commitMs)} ms. Load before the start: ${readable(loadBefore)}${loadBefore > 0.5 ? ' (others were at work)' : ''}.`,
  ].join('\n')
}
