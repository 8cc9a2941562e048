/**
 * Order confirmations from a SQL insert to the sink, against a bare loop that renders and sends the same
 * mail to the same sink. Contenders take turns within each round; the medians are compared.
 */
import type { Client } from 'pg'
import { type BareLoop, startBareLoop } from './bare-loop.ts'
import { type CpuSeconds, cpuBetween, readCpu, type Watched } from './cpu.ts'
import { orderMessage } from './order.ts'
import type { BenchOptions, Findings } from './report.ts'
import { type BenchService, publishTemplate, type Rig, startService, withClient } from './rig.ts'
import { type Sink, startBestSink } from './sink.ts'
import { median, readable, table } from './statistics.ts'
import { firstSeq, untilSettled } from './stored.ts'

const INSERT_ROWS = 1_000
const SLUICE = 'Sluice, one process'
const SLUICE_TWO = 'Sluice, two worker processes'
const BARE = 'bare loop'

type Run = {
  readonly contender: string
  readonly perS: number
  readonly lost: number
  readonly duplicated: number
  readonly cpu: CpuSeconds
}

/** What a round needs; the second worker comes and goes with its contender. */
type Field = {
  readonly rig: Rig
  readonly options: BenchOptions
  readonly databaseUrl: string
  readonly client: Client
  readonly sink: Sink
  readonly loop: BareLoop
  readonly service: BenchService
}

export async function endToEnd(rig: Rig, options: BenchOptions): Promise<Findings> {
  const databaseUrl = await rig.createDatabase('end_to_end')
  const sink = await startBestSink(rig.guard)
  const { profileDir } = options
  const service = await startService(rig, { databaseUrl, smtpUrl: sink.url, roles: 'api,worker', profileDir })
  await publishTemplate(service.url)
  const loop = startBareLoop(rig.guard, sink.url)
  const runs = await withClient(databaseUrl, (client) =>
    runRounds({ rig, options, databaseUrl, client, sink, loop, service }),
  )
  loop.close()
  await service.stop()
  sink.close()
  return findingsOf(runs, options, sink)
}

async function runRounds(field: Field): Promise<Run[]> {
  const { options } = field
  const runs: Run[] = []
  for (let round = 0; round < options.runs; round += 1) {
    const turns = [
      () => runSluice(field, SLUICE, [field.service]),
      () => runBare(field),
      () => runTwoWorkers(field),
    ]
    // The order moves on, so that no contender is always the one after a particular other.
    for (let turn = 0; turn < turns.length; turn += 1) {
      const run = await turns[(turn + round) % turns.length]?.()
      if (run === undefined) continue
      runs.push(run)
      options.say(`end-to-end, round ${round + 1}: ${run.contender} ${readable(run.perS)}/s`)
    }
  }
  return runs
}

async function runTwoWorkers(field: Field): Promise<Run> {
  const { rig, databaseUrl, sink } = field
  const second = await startService(rig, {
    databaseUrl,
    smtpUrl: sink.url,
    roles: 'worker',
    profileDir: undefined,
  })
  const run = await runSluice(field, SLUICE_TWO, [field.service, second])
  await second.stop()
  return run
}

async function runSluice(field: Field, contender: string, services: readonly BenchService[]): Promise<Run> {
  const { client, sink, options } = field
  const send = async (count: number) => {
    const before = sink.accepted()
    const seq = await firstSeq(client)
    const startedAt = process.hrtime.bigint()
    await insertOrders(client, count)
    const endedAt = await sink.reached(before + count)
    const { lost } = await untilSettled(client, seq, count)
    const duplicated = Math.max(0, sink.accepted() - before - count + lost)
    return { startedAt, endedAt, lost, duplicated }
  }
  await send(warmUpOf(options))
  const watched = [...services.map((each) => each.watched), field.rig.postgres, sink.watched, SELF]
  const cpuBefore = readCpu(watched)
  const { startedAt, endedAt, lost, duplicated } = await send(options.messages)
  const cpu = cpuBetween(cpuBefore, readCpu(watched))
  return { contender, perS: rate(options.messages, startedAt, endedAt), lost, duplicated, cpu }
}

async function runBare({ loop, sink, options }: Field): Promise<Run> {
  await loop.send(0, warmUpOf(options))
  const watched = [loop.watched, sink.watched]
  const before = sink.accepted()
  const cpuBefore = readCpu(watched)
  const reached = sink.reached(before + options.messages)
  const startedAt = await loop.send(0, options.messages)
  const endedAt = await reached
  const cpu = cpuBetween(cpuBefore, readCpu(watched))
  const lost = Math.max(0, before + options.messages - sink.accepted())
  return { contender: BARE, perS: rate(options.messages, startedAt, endedAt), lost, duplicated: 0, cpu }
}

/** The process that inserts: this one. */
const SELF: Watched = { name: 'inserts', pid: process.pid }

function warmUpOf({ messages }: BenchOptions): number {
  return Math.max(100, Math.floor(messages / 10))
}

function rate(messages: number, startedAt: bigint, endedAt: bigint | undefined): number {
  return endedAt === undefined ? 0 : messages / (Number(endedAt - startedAt) / 1e9)
}

/** As an application would in a batch job: some rows a statement, each statement its own commit. */
async function insertOrders(client: Client, count: number): Promise<void> {
  for (let first = 0; first < count; first += INSERT_ROWS) {
    const rows = Math.min(INSERT_ROWS, count - first)
    const messages = Array.from({ length: rows }, (_, index) => orderMessage(first + index))
    await client.query({
      name: 'insert_orders',
      text: '/* bench.insert */ insert into mail.outbox (message) select m::json from unnest($1::text[]) m',
      values: [messages],
    })
  }
}

function findingsOf(runs: readonly Run[], options: BenchOptions, sink: Sink): Findings {
  const byContender = Map.groupBy(runs, (run) => run.contender)
  const bare = median((byContender.get(BARE) ?? []).map((run) => run.perS))
  const rows = [...byContender].map(([contender, own]) => {
    const perS = own.map((run) => run.perS)
    const ms = (name: string) => median(own.map((run) => ((run.cpu.get(name) ?? 0) * 1e3) / options.messages))
    const sender = contender === BARE ? 'loop' : 'sluice'
    const all = median(
      own.map((run) => ([...run.cpu.values()].reduce((a, b) => a + b, 0) * 1e3) / options.messages),
    )
    return {
      contender,
      perS: median(perS),
      slowestPerS: Math.min(...perS),
      fastestPerS: Math.max(...perS),
      ratio: median(perS) / bare,
      cpuMs: { sender: ms(sender), postgres: ms('postgres'), sink: ms('sink'), inserts: ms('inserts'), all },
      lost: own.reduce((sum, run) => sum + run.lost, 0),
      duplicated: own.reduce((sum, run) => sum + run.duplicated, 0),
    }
  })
  const one = rows.find((row) => row.contender === SLUICE)
  return {
    name: 'end-to-end',
    data: { sink: sink.name, messages: options.messages, contenders: rows },
    targets: [
      {
        what: 'end to end, ratio to the bare loop',
        bound: 'at least',
        limit: 1,
        unit: '×',
        measured: one?.ratio ?? Number.NaN,
      },
    ],
    lost: rows.reduce((sum, row) => sum + row.lost, 0),
    text: [
      `${readable(options.messages)} messages, ${options.runs} rounds, into ${sink.name}. CPU in milliseconds a message.`,
      '',
      table(
        [
          'contender',
          'mails/s',
          'slowest',
          'fastest',
          'ratio',
          'CPU sender',
          'Postgres',
          'sink',
          'inserts',
          'all',
          'lost',
          'twice',
        ],
        rows.map((row) => [
          row.contender,
          row.perS,
          row.slowestPerS,
          row.fastestPerS,
          row.ratio,
          ...Object.values(row.cpuMs),
          String(row.lost),
          String(row.duplicated),
        ]),
      ),
    ].join('\n'),
  }
}
