/**
 * Order confirmations from the moment they are handed over to the sink: Sluice, three queues with nodemailer, and a bare
 * loop that renders and sends the same mail to the same sink. Contenders take turns within each round; the medians are
 * compared.
 */

import type { Contender, Turn } from './contender.ts'
import { BARE_LOOP, bareLoop, queue, type Stage, sluice } from './contenders.ts'
import { type CpuSeconds, cpuBetween, readCpu } from './cpu.ts'
import { findPeers } from './peers.ts'
import type { BenchOptions, Findings, Target } from './report.ts'
import { publishTemplate, type Rig, startService, withClient } from './rig.ts'
import { startBestSink } from './sink.ts'
import { median, readable, table } from './statistics.ts'

const WORKERS = [1, 2] as const

type Run = Turn & { readonly contender: string; readonly perS: number; readonly cpu: CpuSeconds }

export async function endToEnd(rig: Rig, options: BenchOptions): Promise<Findings> {
  const databaseUrl = await rig.createDatabase('end_to_end')
  const sink = await startBestSink(rig.guard)
  const { profileDir } = options
  const first = await startService(rig, { databaseUrl, smtpUrl: sink.url, roles: 'api,worker', profileDir })
  await publishTemplate(first.url)
  await first.stop()
  const stage: Stage = { rig, sink, profileDir }
  const peers = findPeers(options.say)
  const missing = peers.filter((peer) => peer.missing !== undefined)
  const queues: Contender[] = []
  for (const peer of peers.filter((each) => each.missing === undefined)) {
    const store = await peer.open(rig)
    queues.push(...WORKERS.map((workers) => queue(stage, peer, store, workers)))
  }
  const runs = await withClient(databaseUrl, (client) => {
    const own = WORKERS.map((workers) => sluice(stage, databaseUrl, client, workers))
    return runRounds([...own, ...queues, bareLoop(stage)], stage, options)
  })
  sink.close()
  return findingsOf(runs, options, sink.name, missing)
}

async function runRounds(
  contenders: readonly Contender[],
  stage: Stage,
  options: BenchOptions,
): Promise<Run[]> {
  const runs: Run[] = []
  for (let round = 0; round < options.runs; round += 1) {
    for (let turn = 0; turn < contenders.length; turn += 1) {
      // The order moves on, so that no contender is always the one after a particular other.
      const contender = contenders[(turn + round) % contenders.length] as Contender
      const run = await takeTurn(contender, stage, options)
      runs.push(run)
      options.say(`end-to-end, round ${round + 1}: ${run.contender} ${readable(run.perS)}/s`)
    }
  }
  return runs
}

async function takeTurn(contender: Contender, { sink }: Stage, { messages }: BenchOptions): Promise<Run> {
  const { watched, send, close } = await contender.open()
  await send(Math.max(100, Math.floor(messages / 10)))
  const all = [...watched, sink.watched]
  const before = readCpu(all)
  const turn = await send(messages)
  const cpu = cpuBetween(before, readCpu(all))
  await close()
  const seconds =
    turn.endedAt === undefined ? Number.POSITIVE_INFINITY : Number(turn.endedAt - turn.startedAt) / 1e9
  return { ...turn, contender: contender.name, perS: messages / seconds, cpu }
}

type Line = {
  readonly contender: string
  readonly perS: number
  readonly slowestPerS: number
  readonly fastestPerS: number
  readonly ratio: number
  readonly cpuMs: Readonly<Record<'sender' | 'store' | 'sink' | 'inserts' | 'all', number>>
  readonly lost: number
  readonly duplicated: number
}

function linesOf(runs: readonly Run[], { messages }: BenchOptions): Line[] {
  const byContender = Map.groupBy(runs, (run) => run.contender)
  const bare = median((byContender.get(BARE_LOOP) ?? []).map((run) => run.perS))
  return [...byContender].map(([contender, own]) => {
    const perS = own.map((run) => run.perS)
    const ms = (name: string) => median(own.map((run) => ((run.cpu.get(name) ?? 0) * 1e3) / messages))
    const all = median(own.map((run) => ([...run.cpu.values()].reduce((a, b) => a + b, 0) * 1e3) / messages))
    return {
      contender,
      perS: median(perS),
      slowestPerS: Math.min(...perS),
      fastestPerS: Math.max(...perS),
      ratio: median(perS) / bare,
      cpuMs: { sender: ms('sender'), store: ms('store'), sink: ms('sink'), inserts: ms('inserts'), all },
      lost: own.reduce((sum, run) => sum + run.lost, 0),
      duplicated: own.reduce((sum, run) => sum + run.duplicated, 0),
    }
  })
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

function findingsOf(
  runs: readonly Run[],
  options: BenchOptions,
  sinkName: string,
  missing: readonly { readonly name: string; readonly missing: string | undefined }[],
): Findings {
  const lines = linesOf(runs, options)
  const own = lines.filter(({ contender }) => contender.startsWith('Sluice'))
  return {
    name: 'end-to-end',
    data: { sink: sinkName, messages: options.messages, contenders: lines, missing },
    targets: targetsOf(lines),
    lost: own.reduce((sum, line) => sum + line.lost, 0),
    text: [
      `${readable(options.messages)} messages, ${options.runs} rounds, into ${sinkName}. CPU in milliseconds a message.`,
      '',
      table(
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
      ),
      ...missing.map(({ name, missing: reason }) => `\n${name} took no part: ${reason}.`),
    ].join('\n'),
  }
}

function targetsOf(lines: readonly Line[]): Target[] {
  const best = (of: readonly Line[]) => Math.max(...of.map(({ perS }) => perS))
  const own = best(lines.filter(({ contender }) => contender.startsWith('Sluice')))
  const queues = lines.filter(({ contender }) => contender !== BARE_LOOP && !contender.startsWith('Sluice'))
  const loop = lines.filter(({ contender }) => contender === BARE_LOOP)
  return [
    {
      what: 'end to end, ratio to the best of the queues',
      bound: 'at least',
      limit: 2,
      unit: '×',
      measured: queues.length === 0 ? Number.NaN : own / best(queues),
    },
    {
      what: 'end to end, ratio to the bare loop',
      bound: 'at least',
      limit: 1.5,
      unit: '×',
      measured: own / best(loop),
    },
  ]
}
