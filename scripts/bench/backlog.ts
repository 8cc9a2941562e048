/**
 * Whether sending slows down while mail waits: one database for each number of waiting mails, all filled through the
 * doors, and rounds in which each has its turn: a worker starts, sends while the others do nothing, and stops.
 */
import type { Client } from 'pg'
import { type CpuSeconds, cpuBetween, readCpu } from './cpu.ts'
import type { BenchOptions, Findings } from './report.ts'
import { type Rig, startService, withClient } from './rig.ts'
import { type Sink, startOwnSink } from './sink.ts'
import { median, readable, table } from './statistics.ts'
import { countAfter, firstSeq, untilQueued } from './stored.ts'

/** A worker that has just started is not as quick as it will be: so many mails go before its time is taken. */
const WARM_UP_SHARE = 0.5
/** Rows of one insert: what an application's bulk statement may have. */
const INSERT_ROWS = 20_000

type Backlog = { readonly waiting: number; readonly databaseUrl: string }
type Turn = {
  readonly waiting: number
  readonly window: number
  readonly perS: number
  readonly cpu: CpuSeconds
  readonly lost: number
}

export async function backlog(rig: Rig, options: BenchOptions): Promise<Findings> {
  const sink = await startOwnSink(rig.guard)
  const backlogs: Backlog[] = []
  for (const waiting of options.waiting) {
    const databaseUrl = await rig.createDatabase(`backlog_${waiting}`)
    const seconds = await fill(rig, sink, options, { waiting, databaseUrl })
    options.say(`backlog: ${readable(waiting)} wait after ${readable(seconds)} s`)
    backlogs.push({ waiting, databaseUrl })
  }
  const turns: Turn[] = []
  for (let round = 0; round < options.rounds; round += 1) {
    for (const each of backlogs) {
      const turn = await takeTurn(rig, sink, options, each)
      turns.push(turn)
      options.say(`backlog, round ${round + 1}: ${readable(each.waiting)} waiting, ${readable(turn.perS)}/s`)
    }
  }
  sink.close()
  return findingsOf(turns, options)
}

/** Mails whose time is taken in one turn: never so many that the backlog could run out. */
function windowOf({ waiting }: Backlog, { windowMails }: BenchOptions): number {
  return Math.min(waiting, windowMails)
}

/** The number that is named, and so much more that it is the mean of what waits while the time is taken. */
function wantedBefore(backlog: Backlog, options: BenchOptions): number {
  return backlog.waiting + Math.ceil(windowOf(backlog, options) * (0.5 + WARM_UP_SHARE))
}

/** Through the outbox, the mover and processing; the provider is paused, so everything stops where sending begins. */
async function fill(rig: Rig, sink: Sink, options: BenchOptions, backlog: Backlog): Promise<number> {
  const { databaseUrl } = backlog
  const startedAt = performance.now()
  const worker = await startService(rig, {
    databaseUrl,
    smtpUrl: sink.url,
    roles: 'worker',
    profileDir: undefined,
  })
  await withClient(databaseUrl, async (client) => {
    await client.query("select mail.pause('default')")
    await addMails(client, wantedBefore(backlog, options))
  })
  await worker.stop()
  // As autovacuum has long done where mail has waited for a while; otherwise it works beside somebody's turn.
  await withClient(databaseUrl, (client) => client.query('vacuum (analyze)'))
  await withClient(databaseUrl, (client) => client.query('checkpoint'))
  return (performance.now() - startedAt) / 1_000
}

async function addMails(client: Client, count: number): Promise<void> {
  const seq = await firstSeq(client)
  for (let first = 0; first < count; first += INSERT_ROWS) {
    await client.query(
      `/* bench.fill */ insert into mail.outbox (message)
       select json_build_object('from', 'shop@shop.example', 'to', 'customer-' || n || '@mail.example', 'subject', 'Your order', 'text', 'It is on its way.')
       from generate_series($1::integer, $2::integer) n`,
      [first + 1, Math.min(count, first + INSERT_ROWS)],
    )
  }
  await untilQueued(client, seq, count)
}

async function takeTurn(rig: Rig, sink: Sink, options: BenchOptions, backlog: Backlog): Promise<Turn> {
  const { waiting, databaseUrl } = backlog
  const { profileDir } = options
  const window = windowOf(backlog, options)
  const worker = await startService(rig, { databaseUrl, smtpUrl: sink.url, roles: 'worker', profileDir })
  return withClient(databaseUrl, async (client) => {
    const missing = wantedBefore(backlog, options) - (await countAfter(client, '0', "status = 'queued'"))
    if (missing > 0) await addMails(client, missing)
    const sentBefore = await countAfter(client, '0', "status = 'sent'")
    const watched = [worker.watched, rig.postgres]
    const before = sink.accepted()
    const warm = before + Math.ceil(window * WARM_UP_SHARE)
    await client.query("select mail.resume('default')")
    const startedAt = await sink.reached(warm)
    const cpuBefore = readCpu(watched)
    const endedAt = await sink.reached(warm + window)
    const cpu = cpuBetween(cpuBefore, readCpu(watched))
    await client.query("select mail.pause('default')")
    await worker.stop()
    const sent = (await countAfter(client, '0', "status = 'sent'")) - sentBefore
    const isThere = (await sink.reached(before + sent)) !== undefined
    const perS =
      startedAt === undefined || endedAt === undefined ? 0 : window / (Number(endedAt - startedAt) / 1e9)
    return { waiting, window, perS, cpu, lost: isThere ? 0 : before + sent - sink.accepted() }
  })
}

function findingsOf(turns: readonly Turn[], { windowMails, rounds }: BenchOptions): Findings {
  const rows = [...Map.groupBy(turns, ({ waiting }) => waiting)].map(([waiting, own]) => {
    const perS = own.map((turn) => turn.perS)
    const ms = (name: string) => median(own.map(({ cpu, window }) => ((cpu.get(name) ?? 0) * 1e3) / window))
    return {
      waiting,
      perS: median(perS),
      slowestPerS: Math.min(...perS),
      fastestPerS: Math.max(...perS),
      cpuMs: { worker: ms('sluice'), postgres: ms('postgres') },
    }
  })
  const [least, most] = [rows.at(0), rows.at(-1)]
  const ratio = (most?.perS ?? Number.NaN) / (least?.perS ?? Number.NaN)
  const of = `${whole(most?.waiting ?? 0)} waiting against ${whole(least?.waiting ?? 0)}`
  return {
    data: { windowMails, rounds, rows },
    ...(rows.length > 1 && { measured: { backlog: { value: ratio, of } } }),
    lost: turns.reduce((sum, { lost }) => sum + lost, 0),
    text: [
      `One worker process; ${readable(windowMails)} mails (of a smaller backlog as many as it has) timed while so many wait, in ${rounds} rounds. CPU in milliseconds a mail.`,
      '',
      table(
        ['waiting', 'mails/s', 'slowest', 'fastest', 'ratio', 'CPU worker', 'Postgres'],
        rows.map(({ waiting, perS, slowestPerS, fastestPerS, cpuMs }) => [
          whole(waiting),
          perS,
          slowestPerS,
          fastestPerS,
          perS / (least?.perS ?? Number.NaN),
          cpuMs.worker,
          cpuMs.postgres,
        ]),
      ),
    ].join('\n'),
  }
}

function whole(count: number): string {
  return count.toLocaleString('en-US')
}
