/**
 * Acceptance: how many mails a second get their answer over REST, durable and buffered, and are committed in SQL, by
 * one client and by many. Every acknowledged mail is looked for afterwards, and with workers on each must have been sent.
 * Beside it what a small application does without Sluice.
 */
import type { Client } from 'pg'
import { type BareAppTask, startBareApp } from './bare-app.ts'
import { type CpuSeconds, cpuBetween, readCpu, type Watched } from './cpu.ts'
import type { SqlDoor } from './doors/sql-door.ts'
import { type LoadGenerator, type LoadOrder, type LoadReport, startLoadGenerator } from './load.ts'
import type { BenchOptions, Findings } from './report.ts'
import {
  API_KEY,
  type BenchService,
  enqueueUrlOf,
  publishTemplate,
  type Rig,
  startService,
  withClient,
} from './rig.ts'
import { startOwnSink } from './sink.ts'
import { readable, table } from './statistics.ts'
import { firstSeq, untilMoved, untilSettled } from './stored.ts'

const REST_CONNECTIONS = [1, 8, 64, 256]
/** The server of the benchmark takes 200 sessions; more clients than that come through a pooler. */
const SQL_CONNECTIONS = [1, 8, 64, 128]
const CONNECTIONS_WITH_WORKERS = [64, 256]
const WARM_UP_S = 2
const BARE_CONNECTIONS = [64, 256]
/** Above this share of one core the generator is no longer a bystander. */
const GENERATOR_LIMIT = 0.8

type DoorName = 'REST, durable' | 'REST, buffered' | 'outbox' | 'intake' | 'mail.send'
type Case = {
  readonly door: DoorName
  readonly workers: 'off' | 'on'
  readonly connections: number
}
const BARE_DOORS = [
  { task: 'insert', door: 'no Sluice, a row each' },
  { task: 'answer', door: 'no Sluice, nothing stored' },
] as const satisfies readonly { task: BareAppTask; door: string }[]
type BareCase = {
  readonly door: (typeof BARE_DOORS)[number]['door']
  readonly workers: '-'
  readonly connections: number
}
type Result = (Case | BareCase) & LoadReport & { readonly lost: number | undefined; readonly cpu: CpuSeconds }
type Scene = {
  readonly rig: Rig
  readonly client: Client
  readonly service: BenchService
  readonly enqueueUrl: string
  readonly load: LoadGenerator
}

export async function accept(rig: Rig, options: BenchOptions): Promise<Findings> {
  const load = startLoadGenerator(rig.guard)
  // First of all, so that they have the server to themselves.
  const bare = await runBareCases(rig, options, load)
  const results: Result[] = []
  for (const workers of ['off', 'on'] as const) {
    results.push(...(await runCases(rig, options, load, workers)))
  }
  load.close()
  return findingsOf([...results, ...bare], options)
}

function casesOf(workers: Case['workers']): Case[] {
  const each = (door: DoorName, counts: readonly number[]) =>
    counts.map((connections) => ({ door, workers, connections }))
  const ofRest = workers === 'on' ? CONNECTIONS_WITH_WORKERS : REST_CONNECTIONS
  const rest = [...each('REST, durable', ofRest), ...each('REST, buffered', ofRest)]
  if (workers === 'on') return rest
  return [
    ...rest,
    ...(['outbox', 'intake', 'mail.send'] as const).flatMap((door) => each(door, SQL_CONNECTIONS)),
  ]
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
  const enqueueUrl = await enqueueUrlOf(databaseUrl)
  const results: Result[] = []
  await withClient(databaseUrl, async (client) => {
    const scene: Scene = { rig, client, service, enqueueUrl, load }
    await runCase(scene, { door: 'REST, durable', workers, connections: 64 }, WARM_UP_S)
    for (const which of casesOf(workers)) {
      const result = await runCase(scene, which, options.seconds)
      results.push(result)
      options.say(
        `accept, ${which.door}, workers ${workers}, ${which.connections} connections: ${readable(result.perS)}/s`,
      )
    }
  })
  await service.stop()
  sink.close()
  return results
}

async function runCase(scene: Scene, which: Case, seconds: number): Promise<Result> {
  const { rig, client, service, load } = scene
  const seq = await firstSeq(client)
  const { connections } = which
  const { report, cpu } = await measure([{ ...service.watched, name: 'server' }, rig.postgres], () =>
    load.run({ target: targetOf(scene, which.door), connections, seconds }),
  )
  const stored = await untilMoved(client, seq)
  // Settled before the next case begins, which would otherwise work off this one's mail as well.
  const sent = which.workers === 'on' ? (await untilSettled(client, seq, stored)).sent : stored
  return { ...which, ...report, cpu, lost: Math.max(0, report.accepted - Math.min(stored, sent)) }
}

/** Without Sluice; whether anything was lost is not looked at. */
async function runBareCases(rig: Rig, options: BenchOptions, load: LoadGenerator): Promise<Result[]> {
  const { seconds, say } = options
  const databaseUrl = await rig.createDatabase('accept_bare')
  const results: Result[] = []
  for (const { task, door } of BARE_DOORS) {
    const app = await startBareApp(rig.guard, task, databaseUrl)
    const target = { by: 'rest', url: app.url, apiKey: API_KEY } as const
    await load.run({ target, connections: 64, seconds: WARM_UP_S })
    for (const connections of BARE_CONNECTIONS) {
      const { report, cpu } = await measure([app.watched, rig.postgres], () =>
        load.run({ target, connections, seconds }),
      )
      results.push({ door, workers: '-', connections, ...report, cpu, lost: undefined })
      say(`accept, ${door}, ${connections} connections: ${readable(report.perS)}/s`)
    }
    app.close()
  }
  return results
}

async function measure(watched: readonly Watched[], run: () => Promise<LoadReport>) {
  const before = readCpu(watched)
  const report = await run()
  return { report, cpu: cpuBetween(before, readCpu(watched)) }
}

function targetOf({ service, enqueueUrl }: Scene, door: DoorName): LoadOrder['target'] {
  const rest = { by: 'rest', url: service.url, apiKey: API_KEY } as const
  const sql = (name: SqlDoor) => ({ by: 'sql', url: enqueueUrl, door: name }) as const
  switch (door) {
    case 'REST, durable':
      return rest
    case 'REST, buffered':
      return { ...rest, isBuffered: true }
    case 'mail.send':
      return sql('send')
    default:
      return sql(door)
  }
}

const HEADINGS = [
  'door',
  'workers',
  'connections',
  'mails/s',
  'p50',
  'p99',
  'CPU server',
  'Postgres',
  'generator',
  'refused',
  'lost',
]

function rowOf(result: Result): (string | number)[] {
  const { door, workers, connections, perS, p50Ms, p99Ms, cpu, accepted, busy, refused, broken, lost } =
    result
  const ms = (name: string) => ((cpu.get(name) ?? 0) * 1e3) / accepted
  return [
    door,
    workers,
    String(connections),
    perS,
    p50Ms,
    p99Ms,
    ms('server'),
    ms('postgres'),
    `${Math.round(busy * 100)} %`,
    String(Object.values(refused).reduce((sum, count) => sum + count, broken)),
    lost === undefined ? '-' : String(lost),
  ]
}

function findingsOf(results: readonly Result[], options: BenchOptions): Findings {
  const perSOf = (door: Result['door'], workers: Result['workers']) =>
    results.find((each) => each.door === door && each.workers === workers && each.connections === 64)?.perS ??
    Number.NaN
  const [stored, unstored] = BARE_DOORS.map(({ door }) => readable(perSOf(door, '-')))
  const busiest = Math.max(...results.map(({ busy }) => busy))
  const untrue = results.filter(({ door, notDurable }) => door === 'REST, durable' && notDurable > 0)
  return {
    data: results.map(({ cpu, ...rest }) => ({ ...rest, cpuS: Object.fromEntries(cpu) })),
    measured: {
      acceptance: {
        value: perSOf('REST, durable', 'off'),
        of: `${options.seconds} s; with workers in the process ${readable(perSOf('REST, durable', 'on'))}/s; without Sluice ${stored}/s inserting a row each, ${unstored}/s storing nothing`,
      },
    },
    plot: {
      latencies: results
        .filter(({ workers }) => workers === 'off')
        .map(({ door, connections, p99Ms }) => ({ door, connections, p99Ms })),
    },
    lost: results.reduce((sum, { lost = 0 }) => sum + lost, 0),
    broken: untrue.map(({ connections }) => `with ${connections} connections an answer did not say durable`),
    text: [
      `${options.seconds} s each. Latency in milliseconds; CPU in milliseconds an accepted mail.`,
      '',
      table(HEADINGS, results.map(rowOf)),
      '',
      busiest > GENERATOR_LIMIT
        ? `The generator used up to ${Math.round(busiest * 100)} % of a core: it may be what was measured.`
        : `The generator used at most ${Math.round(busiest * 100)} % of a core: it is not what was measured.`,
    ].join('\n'),
  }
}
