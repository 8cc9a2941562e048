import { availableParallelism, cpus, loadavg, release, totalmem } from 'node:os'
import { setTimeout as delay } from 'node:timers/promises'
import { withClient } from './rig.ts'
import { median, readable } from './statistics.ts'

const COMMITS = 100
const ASKED = 100
/** Between statements that come after a rest: long enough for the cores to fall asleep. */
const REST_MS = 5

export type Machine = {
  readonly cores: number
  readonly cpu: string
  readonly memoryGb: number
  readonly system: string
  readonly node: string
  readonly postgres: string
  /** Median of one small commit after the other: mostly what the disk takes to make it durable. */
  readonly commitMs: number
  /** Median of a statement that asks for nothing, right after another, and after a rest: the difference is the time that it takes to wake up. */
  readonly statementMs: number
  readonly statementAfterRestMs: number
  /** Processes that wanted a core in the minute before: near 0 when the machine is quiet. */
  readonly loadBefore: number
}

/** Call first of all: the load is that of others only before the benchmark adds its own. */
export function loadOfOthers(): number {
  return loadavg()[0] ?? 0
}

/** `url` is a database with the durability that is measured; a small table is left in it. */
export async function describeMachine(url: string, loadBefore: number): Promise<Machine> {
  const measured = await withClient(url, async (client) => {
    const { rows } = await client.query<{ server_version: string }>('show server_version')
    await client.query('create table commit_cost (n integer)')
    const insert = (n: number) => client.query('insert into commit_cost values ($1)', [n])
    const ask = () => client.query({ name: 'ask', text: 'select' })
    return {
      postgres: rows[0]?.server_version ?? '',
      commitMs: await medianMs(COMMITS, insert),
      statementMs: await medianMs(ASKED, ask),
      statementAfterRestMs: await medianMs(ASKED, ask, REST_MS),
    }
  })
  return {
    cores: availableParallelism(),
    cpu: cpus()[0]?.model ?? 'unknown',
    memoryGb: Math.round(totalmem() / 2 ** 30),
    system: `${process.platform} ${release()}`,
    node: process.version,
    ...measured,
    loadBefore,
  }
}

async function medianMs(times: number, act: (n: number) => Promise<unknown>, restMs = 0): Promise<number> {
  const took: number[] = []
  for (let n = 0; n < times; n += 1) {
    if (restMs > 0) await delay(restMs)
    const startedAt = performance.now()
    await act(n)
    took.push(performance.now() - startedAt)
  }
  return median(took)
}

export function machineText(machine: Machine): string {
  const { cores, cpu, memoryGb, system, node, postgres, loadBefore } = machine
  const [commit, statement, rested] = [
    machine.commitMs,
    machine.statementMs,
    machine.statementAfterRestMs,
  ].map(readable)
  return [
    `${cores} cores of ${cpu}, ${memoryGb} GB, ${system}, Node ${node}, PostgreSQL ${postgres} with default durability.`,
    `One small commit takes ${commit} ms; a statement ${statement} ms, after a rest of ${REST_MS} ms ${rested} ms. Load before the start: ${readable(loadBefore)}${loadBefore > 0.5 ? ' (others were at work)' : ''}.`,
  ].join('\n')
}
