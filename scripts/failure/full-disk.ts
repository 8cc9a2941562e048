import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, rename, symlink } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { promisify } from 'node:util'
import { copySeed, makeTestDirectory, startTestServer } from '../../test/support/database.ts'
import { eventually } from '../../test/support/eventually.ts'
import { type KillablePostgres, startKillableIn } from '../../test/support/killable-postgres.ts'
import type { SpawnedService } from '../../test/support/service.ts'
import { type ClientsReport, FIRST_BY_SQL, faultsOf, insertSteadily, runClients } from './clients.ts'
import { untilDrained } from './drain.ts'
import { processorS } from './process-size.ts'
import type { Outcome, Scene } from './run.ts'
import { startRecordingSink } from './sink.ts'
import { spawnSluice } from './sluice.ts'
import { mountSmallDisk, type SmallDisk } from './small-disk.ts'
import { endedAmong, takenOver, watchCrowding } from './survivors.ts'

const run = promisify(execFile)

/** What lies on the small disk: all but the write-ahead log, that log alone, or everything, as in most installations. */
export type OnSmallDisk = 'data' | 'wal' | 'both'

export type FullDiskScale = {
  /** Mails a second by REST, under keys; so many again by SQL. */
  readonly perS: number
  /** How long there is room, then none, then room again. */
  readonly beforeS: number
  readonly fullS: number
  readonly afterS: number
  readonly workers: number
}

const SIZE_MB = { data: 300, wal: 192, both: 400 } as const
/** Segments are used up soon, and no more of them kept than must be. */
const FEW_SEGMENTS = { min_wal_size: '32MB', max_wal_size: '64MB' }
const SINK_DELAY_MS = 20
const CLIENTS = 32
const SWITCH_MS = 200
/** What people and machines look at while there is no room: some of it sorts, and would want a file for that. */
const LOOKED_AT = ['/readyz', '/emails?limit=100', '/stats', '/metrics', '/dead-letters', '/healthz']
const LOOK_MS = 250
const PATIENCE_MS = 60_000
/** Of one core, by any process while there is no room: past it somebody tries without a pause. */
const MAX_CORES = 0.5
/** What a person can read of an outage, however many requests and rounds fail in it. */
const LINES_AT_FIRST = 40
const LINES_PER_S = 0.5
const TOLD = 'no room on its disk'

/** Fills the disk under a steady load, leaves it full for a while, and frees it: nobody helps in any other way. */
export async function performFullDisk(scene: Scene, scale: FullDiskScale, on: OnSmallDisk): Promise<Outcome> {
  const { ledger } = scene
  const { server, disk } = await startOnSmallDisk(scene, on)
  const services = await startServices(scene, server, scale.workers)
  const crowding = watchCrowding()
  const load = startLoad(scene, server, services[0]?.url ?? '', scale.perS)
  await delay(scale.beforeS * 1_000)
  const outage = await fillFor(scale.fullS, { server, disk, services, on })
  const backAt = await eventually(
    'a durable answer after there was room again',
    async () => load.answeredAt.find((at) => at > outage.freedAt),
    PATIENCE_MS,
  )
  await delay(scale.afterS * 1_000)
  const { clients, sqlRefused } = await load.stop()
  await untilDrained(server, ledger)
  const rescued = await takenOver(server)
  const failed = (clients.refused.get(503) ?? 0) + clients.broken
  return {
    verdict: ledger.verdict(),
    longestGapS: ledger.longestGapS,
    recoveriesS: [(backAt - outage.freedAt) / 1_000],
    allowedDuplicates: rescued,
    broken: [
      ...faultsOf(clients),
      ...endedAmong(services),
      ...(failed === 0 ? ['no request met the full disk'] : []),
      ...(await deadLetters(server)),
      ...(rescued > 0 && !crowding.isCrowded()
        ? [`${rescued} messages were taken from workers that lived`]
        : []),
      ...outage.broken,
    ],
    figures: {
      ...crowding.figures(),
      'answers 503': clients.refused.get(503) ?? 0,
      'requests without an answer': clients.broken,
      'SQL statements refused': sqlRefused,
      'taken over from workers': rescued,
      ...outage.figures,
    },
  }
}

async function startOnSmallDisk(
  scene: Scene,
  on: OnSmallDisk,
): Promise<{ server: KillablePostgres; disk: SmallDisk }> {
  const dataDir = await makeTestDirectory(scene)
  scene.guard?.watchData(dataDir)
  const small = on === 'wal' ? join(dataDir, 'small') : dataDir
  if (on === 'wal') await mkdir(small)
  const disk = await mountSmallDisk(dataDir, small, SIZE_MB[on])
  await copySeed(dataDir)
  const cluster = join(dataDir, 'cluster')
  if (!existsSync(cluster)) await (await startTestServer(scene, { dataDir })).stop()
  if (on !== 'both') await moveLog(cluster, on === 'wal' ? small : await makeTestDirectory(scene))
  const server = await startKillableIn(scene, dataDir, { settings: on === 'data' ? {} : FEW_SEGMENTS })
  return { server, disk }
}

/** As the manual of initdb has it (--waldir): pg_wal may be a link to a directory elsewhere. */
async function moveLog(cluster: string, to: string): Promise<void> {
  const [from, target] = [join(cluster, 'pg_wal'), join(to, 'pg_wal')]
  await run('cp', ['-a', from, target])
  await rename(from, join(cluster, 'pg_wal.before'))
  await symlink(target, from)
}

/** The API first. */
async function startServices(scene: Scene, { url }: KillablePostgres, workers: number) {
  const sink = await startRecordingSink(scene, { delayMs: SINK_DELAY_MS })
  const environment = { SMTP_URL: sink.url, SLUICE_ACCEPT_TIMEOUT_MS: '2000' }
  const services = [await spawnSluice(scene, url, { ...environment, SLUICE_ROLES: 'api' })]
  while (services.length <= workers)
    services.push(await spawnSluice(scene, url, { ...environment, SLUICE_ROLES: 'worker' }))
  return services
}

type Load = {
  /** When durable answers came. */
  readonly answeredAt: readonly number[]
  stop(): Promise<{ clients: ClientsReport; sqlRefused: number }>
}

function startLoad({ ledger }: Scene, server: KillablePostgres, url: string, perS: number): Load {
  const answeredAt: number[] = []
  const isOver = new AbortController()
  const { signal } = isOver
  const running = Promise.all([
    runClients({
      ...{ ledger, clients: CLIENTS, perS, signal },
      count: Number.POSITIVE_INFINITY,
      url: () => url,
      onAcknowledged: () => answeredAt.push(performance.now()),
    }),
    insertSteadily(server, ledger, { first: FIRST_BY_SQL, perS, signal }),
  ])
  return {
    answeredAt,
    stop: async () => {
      isOver.abort()
      const [clients, { refused }] = await running
      return { clients, sqlRefused: refused }
    },
  }
}

type Outage = {
  readonly freedAt: number
  readonly broken: readonly string[]
  readonly figures: Readonly<Record<string, number>>
}

type Filling = {
  readonly server: KillablePostgres
  readonly disk: SmallDisk
  readonly services: readonly SpawnedService[]
  readonly on: OnSmallDisk
}

/** What the processes do while there is no room. */
async function fillFor(seconds: number, { server, disk, services, on }: Filling): Promise<Outage> {
  const usage = () =>
    services.map(({ pid, output }) => ({ cpuS: processorS(pid), lines: output().split('\n').length }))
  const before = usage()
  const filledAt = performance.now()
  await disk.fill()
  const until = filledAt + seconds * 1_000
  const [unexpected] = await Promise.all([
    lookAround(services[0], until),
    ...(on === 'data' ? [] : [useUpLog(server, until)]),
  ])
  const spentS = (performance.now() - filledAt) / 1_000
  const after = usage()
  await disk.free()
  const most = (what: 'cpuS' | 'lines') =>
    Math.max(...after.map((each, n) => each[what] - (before[n]?.[what] ?? 0)))
  const cores = most('cpuS') / spentS
  const isTold = services.some(({ output }) => output().includes(TOLD))
  return {
    freedAt: performance.now(),
    broken: [
      ...(cores > MAX_CORES ? [`a process used ${cores.toFixed(2)} cores while there was no room`] : []),
      ...(most('lines') > LINES_AT_FIRST + LINES_PER_S * spentS
        ? [`a process wrote ${most('lines')} lines in the ${spentS.toFixed(0)} s without room`]
        : []),
      ...unexpected,
      // When the log is full there is no server left to say so: its own log has the reason.
      ...(on === 'data' && !isTold ? ['no log says that the disk is full'] : []),
    ],
    figures: {
      'without room s': spentS,
      'busiest process, cores': cores,
      'most log lines of a process': most('lines'),
    },
  }
}

/** Answers that are neither what was asked for nor 503, a sentence each. */
async function lookAround(api: SpawnedService | undefined, until: number): Promise<string[]> {
  const unexpected: string[] = []
  for (let n = 0; performance.now() < until; n += 1) {
    const path = LOOKED_AT[n % LOOKED_AT.length] ?? ''
    const answer = await api?.request(path)
    await answer?.arrayBuffer()
    const expected = path === '/healthz' ? [200] : [200, 503]
    if (answer !== undefined && !expected.includes(answer.status))
      unexpected.push(`${path} was answered with ${answer.status}`)
    await delay(LOOK_MS)
  }
  return unexpected
}

/** What a server writes in an hour, in seconds: the rest of each segment is left empty. */
async function useUpLog({ query }: KillablePostgres, until: number): Promise<void> {
  while (performance.now() < until) {
    // Fails as soon as there is no room for the next.
    await query('select pg_switch_wal()').catch(() => undefined)
    await delay(SWITCH_MS)
  }
}

async function deadLetters({ query }: KillablePostgres): Promise<string[]> {
  const rows = await query<{ code: string; messages: number }>(
    `select last_error as code, count(*)::integer as messages
     from mail.message where status in ('dead', 'unknown') group by 1`,
  )
  return rows.map(({ code, messages }) => `${messages} messages are dead or unknown for it: ${code}`)
}
