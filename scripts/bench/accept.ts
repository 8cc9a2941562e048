/**
 * Acceptance over REST: how many mails a second get their answer, with the workers off and on. Every
 * acknowledged mail is looked for afterwards, and with workers on each must have been sent.
 */
import type { Client } from 'pg'
import { type CpuSeconds, cpuBetween, readCpu } from './cpu.ts'
import { type LoadGenerator, type LoadReport, startLoadGenerator } from './load.ts'
import type { BenchOptions, Findings } from './report.ts'
import { API_KEY, type BenchService, publishTemplate, type Rig, startService, withClient } from './rig.ts'
import { startOwnSink } from './sink.ts'
import { readable, table } from './statistics.ts'
import { firstSeq, untilMoved, untilSettled } from './stored.ts'

const CONNECTIONS = [64, 256] as const
const WARM_UP_S = 2
/** Above this share of one core the generator is no longer a bystander. */
const GENERATOR_LIMIT = 0.8

type Case = {
  readonly durability: 'durable' | 'buffered'
  readonly workers: 'off' | 'on'
  readonly connections: number
}
type Result = Case & LoadReport & { readonly lost: number; readonly cpu: CpuSeconds }
type Scene = {
  readonly rig: Rig
  readonly options: BenchOptions
  readonly client: Client
  readonly service: BenchService
  readonly load: LoadGenerator
}

export async function accept(rig: Rig, options: BenchOptions): Promise<Findings> {
  const load = startLoadGenerator(rig.guard)
  const results = [
    ...(await runCases(rig, options, load, 'off')),
    ...(await runCases(rig, options, load, 'on')),
  ]
  load.close()
  return findingsOf(results, options)
}

async function runCases(
  rig: Rig,
  options: BenchOptions,
  load: LoadGenerator,
  workers: Case['workers'],
): Promise<Result[]> {
  const databaseUrl = await rig.createDatabase(`accept_workers_${workers}`)
  const sink = await startOwnSink(rig.guard)
  const roles = workers === 'on' ? 'api,worker' : 'api'
  const { profileDir } = options
  const service = await startService(rig, { databaseUrl, smtpUrl: sink.url, roles, profileDir })
  await publishTemplate(service.url)
  const results: Result[] = []
  await withClient(databaseUrl, async (client) => {
    const scene: Scene = { rig, options, client, service, load }
    await runCase(scene, { durability: 'durable', workers, connections: CONNECTIONS[0] }, WARM_UP_S)
    for (const durability of ['durable', 'buffered'] as const) {
      for (const connections of CONNECTIONS) {
        const result = await runCase(scene, { durability, workers, connections }, options.seconds)
        results.push(result)
        options.say(
          `accept, ${durability}, workers ${workers}, ${connections} connections: ${readable(result.perS)}/s`,
        )
      }
    }
  })
  await service.stop()
  sink.close()
  return results
}

async function runCase(scene: Scene, which: Case, seconds: number): Promise<Result> {
  const { rig, client, service, load } = scene
  const seq = await firstSeq(client)
  const watched = [service.watched, rig.postgres]
  const before = readCpu(watched)
  const report = await load.run({
    url: service.url,
    key: API_KEY,
    connections: which.connections,
    seconds,
    isBuffered: which.durability === 'buffered',
  })
  const cpu = cpuBetween(before, readCpu(watched))
  const stored = await untilMoved(client, seq)
  // Settled before the next case begins, which would otherwise work off this one's mail as well.
  const sent = which.workers === 'on' ? (await untilSettled(client, seq, stored)).sent : stored
  return { ...which, ...report, cpu, lost: Math.max(0, report.accepted - Math.min(stored, sent)) }
}

function findingsOf(results: readonly Result[], options: BenchOptions): Findings {
  const target = results.find(
    ({ durability, workers, connections }) =>
      durability === 'durable' && workers === 'off' && connections === 64,
  )
  const withWorkers = results.find(
    ({ durability, workers, connections }) =>
      durability === 'durable' && workers === 'on' && connections === 64,
  )
  const busiest = Math.max(...results.map(({ busy }) => busy))
  const ms = ({ cpu, accepted }: Result, name: string) => ((cpu.get(name) ?? 0) * 1e3) / accepted
  const rows = results.map((result) => [
    `${result.durability}, workers ${result.workers}, ${result.connections}`,
    result.perS,
    result.p50Ms,
    result.p99Ms,
    ms(result, 'sluice'),
    ms(result, 'postgres'),
    `${Math.round(result.busy * 100)} %`,
    String(Object.values(result.refused).reduce((sum, count) => sum + count, result.broken)),
    String(result.lost),
  ])
  return {
    name: 'accept',
    data: results.map(({ cpu, ...rest }) => ({ ...rest, cpuS: Object.fromEntries(cpu) })),
    targets: [
      {
        what: 'durable REST acceptance, 64 connections',
        bound: 'at least',
        limit: 3_000,
        unit: '/s',
        measured: target?.perS ?? Number.NaN,
      },
      {
        what: 'the same with the workers running',
        bound: 'at least',
        limit: 3_000,
        unit: '/s',
        measured: withWorkers?.perS ?? Number.NaN,
      },
    ],
    lost: results.reduce((sum, { lost }) => sum + lost, 0),
    text: [
      `${options.seconds} s each. Latency in milliseconds; CPU in milliseconds an accepted mail.`,
      '',
      table(
        [
          'answer, workers, connections',
          'mails/s',
          'p50',
          'p99',
          'CPU Sluice',
          'Postgres',
          'generator',
          'refused',
          'lost',
        ],
        rows,
      ),
      '',
      busiest > GENERATOR_LIMIT
        ? `The generator used up to ${Math.round(busiest * 100)} % of a core: it may be what was measured.`
        : `The generator used at most ${Math.round(busiest * 100)} % of a core: it is not what was measured.`,
    ].join('\n'),
  }
}
