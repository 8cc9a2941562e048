/** Contenders take turns within each round, and their medians are compared: what else the machine does meets all alike. */
import type { Contender, Turn } from './contender.ts'
import { BARE_LOOP } from './contenders.ts'
import { type CpuSeconds, cpuBetween, readCpu } from './cpu.ts'
import type { Sink } from './sink.ts'
import { median, readable, table } from './statistics.ts'

const WARM_UP_SHARE = 0.1
const LEAST_WARM_UP = 100

type Contest = {
  readonly name: string
  readonly sink: Sink
  readonly messages: number
  readonly rounds: number
  readonly say: (line: string) => void
}
type Run = Turn & { readonly contender: string; readonly perS: number; readonly cpu: CpuSeconds }

export type Line = {
  readonly contender: string
  readonly perS: number
  readonly slowestPerS: number
  readonly fastestPerS: number
  /** To the bare loop. */
  readonly ratio: number
  readonly cpuMs: Readonly<Record<'sender' | 'store' | 'sink' | 'inserts' | 'all', number>>
  readonly lost: number
  readonly duplicated: number
}

/** One line for each contender, in the order given. */
export async function takeTurns(contenders: readonly Contender[], contest: Contest): Promise<Line[]> {
  const runs: Run[] = []
  for (let round = 0; round < contest.rounds; round += 1) {
    for (let turn = 0; turn < contenders.length; turn += 1) {
      // The order moves on, so that no contender is always the one after a particular other.
      const contender = contenders[(turn + round) % contenders.length]
      if (contender === undefined) continue
      const run = await takeTurn(contender, contest)
      runs.push(run)
      contest.say(`${contest.name}, round ${round + 1}: ${run.contender} ${readable(run.perS)}/s`)
    }
  }
  const byContender = Map.groupBy(runs, ({ contender }) => contender)
  const bare = median((byContender.get(BARE_LOOP) ?? []).map(({ perS }) => perS))
  return contenders.map(({ name }) => lineOf(name, byContender.get(name) ?? [], contest.messages, bare))
}

async function takeTurn(contender: Contender, { sink, messages }: Contest): Promise<Run> {
  const { watched, send, close } = await contender.open()
  await send(Math.max(LEAST_WARM_UP, Math.floor(messages * WARM_UP_SHARE)))
  const all = [...watched, sink.watched]
  const before = readCpu(all)
  const turn = await send(messages)
  const cpu = cpuBetween(before, readCpu(all))
  await close()
  const seconds =
    turn.endedAt === undefined ? Number.POSITIVE_INFINITY : Number(turn.endedAt - turn.startedAt) / 1e9
  return { ...turn, contender: contender.name, perS: messages / seconds, cpu }
}

function lineOf(contender: string, runs: readonly Run[], messages: number, bare: number): Line {
  const perS = runs.map((run) => run.perS)
  const ms = (name: string) => median(runs.map(({ cpu }) => ((cpu.get(name) ?? 0) * 1e3) / messages))
  const all = median(runs.map(({ cpu }) => ([...cpu.values()].reduce((a, b) => a + b, 0) * 1e3) / messages))
  return {
    contender,
    perS: median(perS),
    slowestPerS: Math.min(...perS),
    fastestPerS: Math.max(...perS),
    ratio: median(perS) / bare,
    cpuMs: { sender: ms('sender'), store: ms('store'), sink: ms('sink'), inserts: ms('inserts'), all },
    lost: runs.reduce((sum, run) => sum + run.lost, 0),
    duplicated: runs.reduce((sum, run) => sum + run.duplicated, 0),
  }
}

const HEADINGS = [
  'contender',
  'mails/s',
  'slowest',
  'fastest',
  'to the loop',
  'CPU sender',
  'store',
  'sink',
  'inserts',
  'all',
  'lost',
  'twice',
]

export function linesTable(lines: readonly Line[]): string {
  return table(
    HEADINGS,
    lines.map((line) => [
      line.contender,
      line.perS,
      line.slowestPerS,
      line.fastestPerS,
      line.ratio,
      ...Object.values(line.cpuMs),
      String(line.lost),
      String(line.duplicated),
    ]),
  )
}

/** Other people's queues may lose what they like; Sluice may not. */
export function lostBySluice(lines: readonly Line[]): number {
  return lines.filter(isSluice).reduce((sum, { lost }) => sum + lost, 0)
}

export function isSluice({ contender }: Line): boolean {
  return contender.startsWith('Sluice')
}
