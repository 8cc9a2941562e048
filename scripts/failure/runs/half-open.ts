import { setTimeout as delay } from 'node:timers/promises'
import type { KillablePostgres } from '../../../test/support/killable-postgres.ts'
import { type ClientsReport, faultsOf, mergeReports, runClients } from '../clients.ts'
import { untilDrained } from '../drain.ts'
import { failureRun, type Scene } from '../run.ts'
import { type Kind, type Silence, type SilentProxy, startSilentProxy } from '../silent-proxy.ts'
import { startRecordingSink } from '../sink.ts'
import { spawnSluice, startPostgres } from '../sluice.ts'
import { endedAmong, takenOver, watchCrowding } from '../survivors.ts'

/** Some mails are always between claim and answer. */
const SINK_DELAY_MS = 150
/**
 * From its silence a connection is given up within so long, whatever it was doing, and from the moment the link is well again
 * all goes on within so long. A crowded machine gets more, and still less than the 30 s after which every statement ends.
 */
const LIMIT_S = { calm: 15, crowded: 28 }
const LOOK_MS = 250
const PATIENCE_MS = 180_000

type Scale = { readonly episodes: readonly Episode[]; readonly perS: number }

type Episode = {
  readonly of: 'api' | 'worker'
  readonly how: Silence
  readonly kinds: readonly Kind[]
  /** For so long nothing gets through, new connections included. 0: only the connections there are die. */
  readonly silenceMs: number
  /** Without: nothing is handed over while it lasts. */
  readonly hasTraffic: boolean
}

const both = ['pool', 'session'] as const
const EPISODES = [
  { of: 'api', how: 'forgotten', kinds: ['pool'], silenceMs: 0, hasTraffic: true },
  { of: 'worker', how: 'forgotten', kinds: ['pool'], silenceMs: 0, hasTraffic: true },
  { of: 'worker', how: 'forgotten', kinds: ['session'], silenceMs: 0, hasTraffic: true },
  { of: 'worker', how: 'forgotten', kinds: both, silenceMs: 0, hasTraffic: true },
  { of: 'worker', how: 'forgotten', kinds: both, silenceMs: 0, hasTraffic: false },
  { of: 'api', how: 'held', kinds: ['pool'], silenceMs: 20_000, hasTraffic: true },
  { of: 'worker', how: 'held', kinds: ['session'], silenceMs: 20_000, hasTraffic: true },
  { of: 'worker', how: 'held', kinds: both, silenceMs: 20_000, hasTraffic: true },
  { of: 'worker', how: 'forgotten', kinds: both, silenceMs: 60_000, hasTraffic: true },
  { of: 'api', how: 'forgotten', kinds: ['pool'], silenceMs: 60_000, hasTraffic: true },
  { of: 'api', how: 'forgotten', kinds: ['pool'], silenceMs: 60_000, hasTraffic: false },
] as const satisfies readonly Episode[]

const [SHORT_API, , , SHORT_WORKER] = EPISODES

/**
 * Connections to Postgres that are dead while both ends take them for alive: a firewall that forgot them, a balancer that
 * hangs, a link that is away. No end of a connection and no reset tells anybody.
 */
export const halfOpen = failureRun<Scale>({
  name: 'half-open',
  promise:
    'a connection to Postgres that goes silent is given up in seconds, callers hear 503 in time, and all goes on by itself',
  limitMinutes: 20,
  full: { episodes: EPISODES, perS: 40 },
  short: { episodes: [SHORT_API, SHORT_WORKER], perS: 20 },
  perform: async (scene, { episodes, perS }) => {
    const { ledger } = scene
    const server = await startPostgres(scene)
    const sink = await startRecordingSink(scene, { delayMs: SINK_DELAY_MS })
    const proxies = {
      api: await startSilentProxy(scene, server.url),
      worker: await startSilentProxy(scene, server.url),
    }
    const environment = { SMTP_URL: sink.url, SLUICE_ACCEPT_TIMEOUT_MS: '5000' }
    const spawn = (url: string, roles: string) =>
      spawnSluice(scene, url, { ...environment, SLUICE_ROLES: roles })
    const api = await spawn(proxies.api.url, 'api')
    const worker = await spawn(proxies.worker.url, 'worker')
    const healthy = await spawn(server.url, 'worker')
    const load = new Load({ scene, url: api.url, perS })
    const crowding = watchCrowding()
    const found: (Found & { readonly name: string })[] = []
    for (const episode of episodes) {
      if (episode.hasTraffic) load.start()
      await load.untilAnswered()
      const times = await perform(proxies[episode.of], episode, () =>
        isWell(server, episode.of === 'worker' ? worker.pid : undefined, load),
      )
      const name = `${episode.of}'s ${episode.kinds.join(' and ')} ${episode.how} for ${episode.silenceMs / 1_000} s`
      scene.say(`${name}: given up after ${times.givenUpS} s, well after ${times.wellS} s`)
      found.push({ name, ...times })
      await load.stop()
    }
    await untilDrained(server, ledger)
    const [rescued, heldUp] = [await takenOver(server), await heldUpIn(server)]
    const clients = load.report()
    const isCrowded = crowding.isCrowded()
    const limitS = isCrowded ? LIMIT_S.crowded : LIMIT_S.calm
    return {
      verdict: ledger.verdict(),
      longestGapS: ledger.longestGapS,
      recoveriesS: found.map(({ wellS }) => wellS),
      allowedDuplicates: rescued,
      broken: [
        ...found
          .filter(({ givenUpS, wellS }) => givenUpS > limitS || wellS > limitS)
          .map(({ name, givenUpS, wellS }) => `${name}: given up after ${givenUpS} s, well after ${wellS} s`),
        ...endedAmong([api, worker, healthy]),
        ...faultsOf(clients),
        ...(clients.broken > 0 && !isCrowded ? [`${clients.broken} requests had no answer in time`] : []),
        ...(heldUp > 0 ? [`${heldUp} server processes are left in a transaction that nobody continues`] : []),
      ],
      figures: {
        ...crowding.figures(),
        episodes: episodes.length,
        'given up after s, at most': Math.max(...found.map(({ givenUpS }) => givenUpS)),
        'answers 503': clients.refused.get(503) ?? 0,
        'requests without an answer': clients.broken,
        'taken over from a cut-off worker': rescued,
      },
    }
  },
})

type Found = {
  /** From the silence, or from the end of it where nobody could have known before, until Sluice had given up all that was silent. */
  readonly givenUpS: number
  /** From the end of the silence until all went on. */
  readonly wellS: number
}

async function perform(
  proxy: SilentProxy,
  { how, kinds, silenceMs }: Episode,
  isWell: () => Promise<boolean>,
): Promise<Found> {
  proxy.silence(how, kinds)
  await delay(silenceMs)
  proxy.heal()
  const healedAt = performance.now()
  const secondsUntil = async (holds: () => Promise<boolean>) => {
    await until(holds)
    return (performance.now() - healedAt) / 1_000
  }
  const [givenUpS, wellS] = await Promise.all([
    secondsUntil(async () => proxy.silent() === 0),
    secondsUntil(isWell),
  ])
  return { givenUpS, wellS }
}

async function until(holds: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS
  while (performance.now() < deadline && !(await holds())) await delay(LOOK_MS)
}

/** The API answers durably, and the worker holds its lock, is on the register, and has been heard of in the last seconds. */
async function isWell(server: KillablePostgres, workerPid: number | undefined, load: Load): Promise<boolean> {
  if (!(await load.isAnswered())) return false
  if (workerPid === undefined) return true
  const rows = await server.query(
    `select from mail.worker w
     join pg_locks l on l.locktype = 'advisory' and l.pid = w.backend_pid and l.objid = w.lock_key::oid and l.granted
     where split_part(w.name, ':', 2) = $1 and w.seen_at > clock_timestamp() - interval '7 seconds'`,
    [String(workerPid)],
  )
  return rows.length > 0
}

async function heldUpIn(server: KillablePostgres): Promise<number> {
  const [row] = await server.query<{ processes: number }>(
    `select count(*)::integer as processes from pg_stat_activity
     where state like 'idle in transaction%' and state_change < clock_timestamp() - interval '5 seconds'`,
  )
  return row?.processes ?? 0
}

/** A steady stream of messages that can be stopped and started. */
class Load {
  readonly #options: { readonly scene: Scene; readonly url: string; readonly perS: number }
  readonly #reports: ClientsReport[] = []
  #first = 1
  #answers = 0
  #running: { readonly stop: AbortController; readonly ended: Promise<unknown> } | undefined

  constructor(options: { readonly scene: Scene; readonly url: string; readonly perS: number }) {
    this.#options = options
  }

  start(): void {
    const stop = new AbortController()
    const ended = this.#run(Number.POSITIVE_INFINITY, this.#options.perS, stop.signal)
    this.#running ??= { stop, ended }
  }

  async stop(): Promise<void> {
    this.#running?.stop.abort()
    await this.#running?.ended
    this.#running = undefined
  }

  async untilAnswered(): Promise<void> {
    await until(() => this.isAnswered())
  }

  /** One more answer than before, asked for when there is no load. */
  async isAnswered(): Promise<boolean> {
    if (this.#running === undefined) {
      await this.#run(1, 1_000)
      return true
    }
    const before = this.#answers
    await delay(200)
    return this.#answers > before
  }

  async #run(count: number, perS: number, signal?: AbortSignal): Promise<void> {
    const { scene, url } = this.#options
    const first = this.#first
    this.#first += count === 1 ? 1 : 1_000_000
    const report = await runClients({
      ledger: scene.ledger,
      count,
      clients: count === 1 ? 1 : 256,
      perS,
      first,
      url: () => url,
      onAcknowledged: () => {
        this.#answers += 1
      },
      ...(signal === undefined ? {} : { signal }),
    })
    this.#reports.push(report)
  }

  report(): ClientsReport {
    return mergeReports(this.#reports)
  }
}
