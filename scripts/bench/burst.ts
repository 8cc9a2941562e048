/**
 * A flash sale: 300,000 orders in four minutes from people who know nothing of each other, then ten times the normal
 * rate for a minute, while a newsletter waits. Each second somebody asks for a new password, and that mail's
 * whole way is timed. Every acknowledged mail is looked for at the sink, one by one.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { Client } from 'pg'
import type { Phase } from './burst/arrivals.ts'
import { type BurstRun, findingsOf } from './burst/findings.ts'
import { type BurstLoad, startBurstLoad } from './burst/load.ts'
import { mailText, ORDERS, RESET_TEMPLATE } from './burst/mail.ts'
import { monotonicMs } from './burst/moments.ts'
import { type BurstSink, startBurstSink } from './burst/sink.ts'
import { type CpuSeconds, cpuBetween, readCpu } from './cpu.ts'
import { insertMails } from './inserts.ts'
import { highestMemoryMb } from './memory.ts'
import type { BenchOptions, BurstOptions, Findings } from './report.ts'
import {
  API_KEY,
  type BenchService,
  enqueueUrlOf,
  publishTemplate,
  type Rig,
  startService,
  withClient,
} from './rig.ts'
import { readable } from './statistics.ts'
import { largestTables, type Sample, takeSample, walPosition } from './watch.ts'

const ORDERS_IN_ALL = 300_000
export const BURST_MINUTES = 4
/**
 * A quarter of the 800 mails a second that one worker sends on two cores, which is where a careful operator would be on
 * a usual day. Ten times that is more than is sent, and still less than is accepted: what comes between waits.
 */
const NORMAL_PER_S = 200
/** Before the burst, so that it meets processes that are up and warm, and between the two. */
const NORMAL_S = 15
const LEAST_NORMAL_S = 4
const SURGE_FACTOR = 10
const SURGE_S = 60
const NEWS = 30_000
/** Several servers of a shop, each with a pool. */
const REST_CONNECTIONS = 512
/** A server takes a hundred sessions by default. */
const SQL_CONNECTIONS = 32
const RESET_EACH_MS = 1_000
/** A short form has as many resets as a percentile needs at the least. */
const LEAST_RESETS = 50
const CATALOG_MS = 2_000
const LOOK_MS = 1_000
const SAY_MS = 10_000
/** Nothing was accepted and nothing arrived for so long: what is missing now does not come any more. */
const STALL_MS = 60_000

type Scene = {
  readonly options: BurstOptions
  readonly say: (line: string) => void
  readonly client: Client
  readonly load: BurstLoad
  readonly sink: BurstSink
}

export async function burst(rig: Rig, { burst: options, profileDir, say }: BenchOptions): Promise<Findings> {
  const databaseUrl = await rig.createDatabase('burst')
  const sink = await startBurstSink(rig.guard)
  const start = (roles: 'api' | 'worker') =>
    startService(rig, { databaseUrl, smtpUrl: sink.url, roles, profileDir })
  const api = await start('api')
  const workers: BenchService[] = []
  while (workers.length < options.workers) workers.push(await start('worker'))
  const load = startBurstLoad(rig.guard)
  const named = (service: BenchService, name: string) => ({ ...service.watched, name })
  const watched = [
    named(api, 'api'),
    ...workers.map((worker, index) => named(worker, `worker ${index + 1}`)),
    rig.postgres,
    sink.watched,
    load.watched,
  ]
  const run = await withClient(databaseUrl, async (client) => {
    const scene = { options, say, client, load, sink }
    const enqueueUrl = await prepare(scene, databaseUrl, api.url)
    const before = { wal: await walPosition(client), cpu: readCpu(watched) }
    const played = await play(scene, api.url, enqueueUrl)
    const cpu: CpuSeconds = cpuBetween(before.cpu, readCpu(watched))
    const walBytes = Number((await walPosition(client)) - before.wal)
    const memory = watched.filter(({ name }) => name !== 'postgres')
    const memoryMb = new Map(memory.map(({ name, pid }) => [name, highestMemoryMb(pid)]))
    const report = { load: await load.report(), arrivals: await sink.arrivals() }
    return { ...played, ...report, options, cpu, walBytes, memoryMb, tables: await largestTables(client, 8) }
  })
  load.close()
  for (const service of [api, ...workers]) await service.stop()
  sink.close()
  return findingsOf(run)
}

function phasesOf({ scale, minutes }: BurstOptions): Phase[] {
  const orders = Math.round(ORDERS_IN_ALL * scale)
  const part = minutes / BURST_MINUTES
  const surge = NORMAL_PER_S * SURGE_FACTOR
  const normal = Math.ceil(NORMAL_PER_S * Math.max(NORMAL_S * part, LEAST_NORMAL_S))
  return [
    { name: 'before', count: normal, perS: NORMAL_PER_S },
    { name: 'burst', count: orders, perS: orders / (minutes * 60) },
    { name: 'between', count: normal, perS: NORMAL_PER_S },
    { name: 'ten times normal', count: Math.ceil(surge * SURGE_S * part), perS: surge },
  ]
}

/** Templates, the stream of the orders, the newsletter that waits already; returns how SQL writers come in. */
async function prepare(scene: Scene, databaseUrl: string, apiUrl: string): Promise<string | undefined> {
  const { client, options } = scene
  await publishTemplate(apiUrl)
  await publishTemplate(apiUrl, RESET_TEMPLATE)
  await client.query('insert into mail.stream (name, priority) values ($1, $2)', [
    ORDERS.name,
    ORDERS.priority,
  ])
  const count = newsOf(options)
  await insertMails(client, count, (n) => mailText('news', n, options.streams))
  // The API looks for new streams once a second.
  await delay(CATALOG_MS)
  if (options.door === 'rest') return undefined
  return enqueueUrlOf(databaseUrl)
}

function newsOf({ scale }: BurstOptions): number {
  return Math.round(NEWS * scale)
}

type Played = Pick<BurstRun, 'phases' | 'startedAtMs' | 'endedAtMs' | 'samples' | 'news'>

/** From the first order until the last mail of all has arrived, or nothing moves any more. */
async function play(scene: Scene, apiUrl: string, enqueueUrl: string | undefined): Promise<Played> {
  const { load, sink, options } = scene
  const phases = phasesOf(options)
  const news = newsOf(options)
  const seconds = phases.reduce((sum, { count, perS }) => sum + count / perS, 0)
  const startedAtMs = await load.start({
    url: apiUrl,
    apiKey: API_KEY,
    enqueueUrl,
    connections: enqueueUrl === undefined ? REST_CONNECTIONS : SQL_CONNECTIONS,
    phases,
    resetEachMs: Math.min(RESET_EACH_MS, (seconds * 1_000) / LEAST_RESETS),
    streams: options.streams,
  })
  const samples: Sample[] = []
  const orders = phases.reduce((sum, { count }) => sum + count, 0)
  const isDrained = () => {
    const { order } = load.progress()
    return (
      order.offered === orders &&
      sink.arrived('order') + order.failed >= orders &&
      sink.arrived('news') >= news
    )
  }
  await lookUntil(scene, startedAtMs, samples, isDrained)
  load.endResets()
  const isOver = () => load.progress().isDone && sink.arrived('reset') >= load.progress().reset.accepted
  await lookUntil(scene, startedAtMs, samples, isOver)
  return { phases, startedAtMs, endedAtMs: monotonicMs(), samples, news }
}

async function lookUntil(
  { client, load, sink, say }: Scene,
  startedAtMs: number,
  samples: Sample[],
  isReached: () => boolean,
): Promise<void> {
  let seen = -1
  let movedAt = monotonicMs()
  let saidAt = movedAt
  while (!isReached()) {
    const now = monotonicMs()
    const sample = await takeSample(client, now - startedAtMs)
    samples.push(sample)
    const { order, reset } = load.progress()
    const arrived = sink.arrived('order') + sink.arrived('reset') + sink.arrived('news')
    // Resets come for ever, so they are no sign of life.
    const moved = order.offered + order.accepted + arrived - sink.arrived('reset')
    if (moved !== seen) movedAt = now
    seen = moved
    if (now - movedAt > STALL_MS) return
    if (now - saidAt > SAY_MS) {
      saidAt = now
      say(
        `burst, ${Math.round((now - startedAtMs) / 1_000)} s: offered ${readable(order.offered)}, accepted ${readable(order.accepted)}, ` +
          `arrived ${readable(arrived)}, lag ${readable(sample.lag)}, resets ${reset.accepted} of ${reset.offered}`,
      )
    }
    await delay(LOOK_MS)
  }
}
