import { setTimeout as delay } from 'node:timers/promises'
import { Client } from 'pg'
import type { KillablePostgres } from '../../test/support/killable-postgres.ts'
import { percentile } from '../bench/statistics.ts'
import { faultsOf, mergeReports, runClients } from './clients.ts'
import { untilDrained } from './drain.ts'
import type { Outcome, Scene } from './run.ts'
import { startRecordingSink } from './sink.ts'
import { spawnSluice, startPostgres } from './sluice.ts'
import { endedAmong, takenOver } from './survivors.ts'

export type CrashScale = {
  /** Handed over by REST with `durable` answers, under keys. */
  readonly messages: number
  /** A second, for as long as it takes: with `buffered` answers and without keys. */
  readonly bufferedPerS: number
  readonly kills: number
  readonly workers: number
}

/** Brings a server down by SIGKILL; what follows is crash recovery, which empties the unlogged intake. */
export type Crash = (server: KillablePostgres) => Promise<void> | void

const SINK_DELAY_MS = 50
const CLIENTS = 32
/** Recipients of buffered mail count from here, so that a key says how it was handed over. */
const FIRST_BUFFERED = 1_000_001
const BUFFERED = /user1\d{6}@/
/** A crash costs what was appended in the moment before it: past this a range would say nothing. */
const MAX_WIDTH = 2_000
const PATIENCE_MS = 120_000
const LOOK_MS = 20

type Kill = {
  readonly killedAt: number
  /** Connections are taken again. */
  readonly backAt: number
}

/** Kills the server again and again while mail comes in through both doors of REST, and looks for every message afterwards. */
export async function performCrashes(
  scene: Scene,
  scale: CrashScale,
  crash: Crash,
  given?: KillablePostgres,
): Promise<Outcome> {
  const { ledger } = scene
  const { messages, bufferedPerS } = scale
  const server = given ?? (await startPostgres(scene))
  const sink = await startRecordingSink(scene, { delayMs: SINK_DELAY_MS })
  const environment = { SMTP_URL: sink.url, SLUICE_ACCEPT_TIMEOUT_MS: '2000' }
  const api = await spawnSluice(scene, server.url, { ...environment, SLUICE_ROLES: 'api' })
  const services = [api]
  for (let n = 0; n < scale.workers; n += 1) {
    services.push(await spawnSluice(scene, server.url, { ...environment, SLUICE_ROLES: 'worker' }))
  }
  await until('the intake is watched', async () => (await rowsOf(server, 'intake_canary')) > 0)
  const durableAt: number[] = []
  const bufferedAt = new Map<string, number>()
  const common = { ledger, clients: CLIENTS, url: () => api.url }
  const isOver = new AbortController()
  const [durable, quick, kills] = await Promise.all([
    runClients({
      ...common,
      count: messages,
      onAcknowledged: () => durableAt.push(performance.now()),
    }).finally(() => isOver.abort()),
    runClients({
      ...common,
      count: Number.POSITIVE_INFINITY,
      perS: bufferedPerS,
      signal: isOver.signal,
      first: FIRST_BUFFERED,
      durability: 'buffered',
      isKeyed: false,
      onAcknowledged: (key) => bufferedAt.set(key, performance.now()),
    }),
    killEvenly(server, scale, crash, () => durableAt.length),
  ])
  await untilDrained(server, ledger)
  const verdict = ledger.verdict()
  const isBuffered = (key: string) => bufferedAt.has(key)
  const lostBuffered = verdict.lost.filter(isBuffered)
  const losses = await readLosses(server)
  const rescued = await takenOver(server)
  const clients = mergeReports([durable, quick])
  const awayS = kills.map(({ killedAt, backAt }) => (backAt - killedAt) / 1_000)
  return {
    // What a buffered answer does not promise is compared with mail.intake_loss.
    verdict: { ...verdict, lost: verdict.lost.filter((key) => !isBuffered(key)) },
    longestGapS: ledger.longestGapS,
    recoveriesS: kills.map(({ backAt }) => firstAfter(durableAt, backAt)),
    allowedDuplicates: rescued,
    broken: [
      ...(kills.length < scale.kills
        ? [`only ${kills.length} of ${scale.kills} kills came before the end`]
        : []),
      ...faultsOf(clients),
      ...endedAmong(services),
      ...rangesBroken(
        kills,
        losses,
        lostBuffered.map((key) => bufferedAt.get(key) ?? 0),
      ),
      ...(sum(losses.map((loss) => loss.atLeast)) > lostBuffered.length + unanswered(scene, bufferedAt).length
        ? ['mail.intake_loss claims more buffered messages at least than were lost']
        : []),
    ],
    figures: {
      kills: kills.length,
      'server away s, p95': percentile(awayS, 95),
      'answers 503': clients.refused.get(503) ?? 0,
      'answers of before, on repeating': clients.replayed,
      'buffered, acknowledged': bufferedAt.size,
      'buffered, lost': lostBuffered.length,
      'intake_loss at least': sum(losses.map((loss) => loss.atLeast)),
      'intake_loss at most': sum(losses.map((loss) => loss.atMost)),
      'widest range': Math.max(0, ...losses.map((loss) => loss.atMost - loss.atLeast)),
      'taken over from workers': rescued,
    },
  }
}

/** One kill after each equal part of the messages, when the loss of the one before has been noticed. */
async function killEvenly(
  server: KillablePostgres,
  { messages, kills: count }: CrashScale,
  crash: Crash,
  answered: () => number,
): Promise<Kill[]> {
  const kills: Kill[] = []
  while (kills.length < count) {
    const due = ((kills.length + 1) * messages) / (count + 1)
    await until('enough was answered', async () => answered() >= due)
    const seen = kills.length
    await until('the last crash was noticed', async () => (await rowsOf(server, 'intake_loss')) >= seen)
    // Somewhere between two looks of the watch.
    await delay(Math.random() * 1_000)
    const witness = new Client({ connectionString: server.url })
    witness.on('error', () => undefined)
    await witness.connect()
    const gone = new Promise((resolve) => witness.once('end', resolve))
    const killedAt = performance.now()
    await crash(server)
    await gone
    await until('connections are taken again', async () => (await rowsOf(server, 'intake_canary')) >= 0)
    kills.push({ killedAt, backAt: performance.now() })
  }
  await until('the last crash was noticed', async () => (await rowsOf(server, 'intake_loss')) >= count)
  return kills
}

type Loss = { readonly atLeast: number; readonly atMost: number }

async function readLosses({ query }: KillablePostgres): Promise<Loss[]> {
  return query<Loss>(
    'select at_least::integer as "atLeast", at_most::integer as "atMost" from mail.intake_loss order by id',
  )
}

/** Each crash has a row of its own, in which there is room for what is known to be lost in it. */
function rangesBroken(
  kills: readonly Kill[],
  losses: readonly Loss[],
  lostAcknowledgedAt: readonly number[],
): string[] {
  if (losses.length !== kills.length) {
    return [`${kills.length} crashes have ${losses.length} rows in mail.intake_loss`]
  }
  return losses.flatMap(({ atLeast, atMost }, n) => {
    const since = kills[n - 1]?.backAt ?? 0
    const until = kills[n]?.backAt ?? Number.POSITIVE_INFINITY
    const lost = lostAcknowledgedAt.filter((at) => at > since && at <= until).length
    return [
      ...(lost > atMost
        ? [`crash ${n + 1} took ${lost} buffered messages, and at most ${atMost} are said`]
        : []),
      ...(atMost - atLeast > MAX_WIDTH ? [`the range of crash ${n + 1} is ${atLeast} to ${atMost}`] : []),
    ]
  })
}

/** Buffered messages whose answer never came and that did not come out: nobody knows whether they were ever appended. */
function unanswered({ ledger }: Scene, acknowledged: ReadonlyMap<string, number>): string[] {
  return ledger.undelivered().filter((key) => !acknowledged.has(key) && BUFFERED.test(key))
}

/** -1 while the server does not answer. */
async function rowsOf({ query }: KillablePostgres, table: 'intake_canary' | 'intake_loss'): Promise<number> {
  const rows = await query<{ rows: number }>(`select count(*)::integer as rows from mail.${table}`).catch(
    () => [],
  )
  return rows[0]?.rows ?? -1
}

/** Seconds from `since` to the first of the moments after it. */
function firstAfter(moments: readonly number[], since: number): number {
  const first = moments.find((at) => at >= since)
  return ((first ?? performance.now()) - since) / 1_000
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, each) => total + each, 0)
}

async function until(what: string, holds: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error(`in vain waited until ${what}`)
    await delay(LOOK_MS)
  }
}
