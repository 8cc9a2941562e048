import { setTimeout as delay } from 'node:timers/promises'
import type { KillablePostgres } from '../../../test/support/killable-postgres.ts'
import { type ClientsReport, runClients } from '../clients.ts'
import { untilDrained } from '../drain.ts'
import { failureRun, type Scene } from '../run.ts'
import { type Kind, type Silence, type SilentProxy, startSilentProxy } from '../silent-proxy.ts'
import { startRecordingSink } from '../sink.ts'
import { spawnSluice, startPostgres } from '../sluice.ts'

/** Some mails are always between claim and answer. */
const SINK_DELAY_MS = 150
/** A connection on which the server is not heard any more is given up within so long, whatever it was doing. */
const NOTICED_LIMIT_S = 15
/** From then on, or from the moment the link is well again, all goes on within so long. */
const RECOVERY_LIMIT_S = 15
const LOOK_MS = 50

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
const EPISODES: readonly Episode[] = [
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
]

/**
 * Connections to Postgres that are dead while both ends take them for alive: a firewall that forgot them, a balancer that
 * hangs, a link that is away. No end of a connection and no reset tells anybody.
 */
export const halfOpen = failureRun({
  name: 'half-open',
  promise:
    'a connection to Postgres that goes silent is given up in seconds, callers hear 503 in time, and all goes on by itself',
  limitMinutes: 20,
  full: { episodes: EPISODES, perS: 40 },
  short: { episodes: EPISODES.slice(0, 4), perS: 40 },
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
    const broken: string[] = []
    worker.ended.then(() => scene.say(`worker ended: ${worker.output().slice(-3_000)}`))
    const recoveriesS: number[] = []
    const noticedS: number[] = []
    for (const episode of episodes) {
      const name = `${episode.of} ${episode.kinds.join('+')} ${episode.how} ${episode.silenceMs / 1_000} s${episode.hasTraffic ? '' : ' idle'}`
      if (episode.hasTraffic) load.start()
      await load.untilAnswered()
      const found = await perform(proxies[episode.of], episode, () =>
        isWell(server, episode.of === 'worker' ? worker.pid : undefined, load),
      )
      scene.say(`${name}: given up after ${found.noticedS} s, well after ${found.recoveredS} s`)
      if (found.noticedS > NOTICED_LIMIT_S + episode.silenceMs / 1_000)
        broken.push(`${name}: silent connections were given up after ${found.noticedS} s`)
      if (found.recoveredS > RECOVERY_LIMIT_S)
        broken.push(`${name}: well again only after ${found.recoveredS} s`)
      noticedS.push(found.noticedS)
      recoveriesS.push(found.recoveredS)
      await load.stop()
    }
    await untilDrained(server, ledger)
    const { rescued, heldUp } = await stateOf(server)
    const clients = load.report()
    for (const each of [api, worker, healthy]) {
      if (each.process.exitCode !== null || each.process.signalCode !== null)
        broken.push(`process ${each.pid} ended: ${each.output().slice(-2_000)}`)
    }
    const refused = [...clients.refused].filter(([status]) => status !== 503)
    return {
      verdict: ledger.verdict(),
      longestGapS: ledger.longestGapS,
      recoveriesS,
      allowedDuplicates: rescued,
      broken: [
        ...broken,
        ...(clients.broken > 0 ? [`${clients.broken} requests had no answer in time`] : []),
        ...refused.map(([status, times]) => `${times} answers were ${status}`),
        ...clients.doubled.map((key) => `the repeat of ${key} was answered with another id`),
        ...(heldUp > 0 ? [`${heldUp} server processes are left in a transaction that nobody continues`] : []),
      ],
      figures: {
        episodes: episodes.length,
        'given up after s, at most': Math.max(...noticedS),
        'answers 503': clients.refused.get(503) ?? 0,
        'taken over from a cut-off worker': rescued,
      },
    }
  },
})

/** Seconds until Sluice had given up every silent connection, and until all was well, counted from the earliest moment it could be. */
async function perform(
  proxy: SilentProxy,
  { how, kinds, silenceMs }: Episode,
  isWell: () => Promise<boolean>,
): Promise<{ noticedS: number; recoveredS: number }> {
  const beganAt = performance.now()
  proxy.silence(how, kinds)
  const healing = delay(silenceMs).then(() => proxy.heal())
  const noticing = until(async () => proxy.silent() === 0).then(() => (performance.now() - beganAt) / 1_000)
  await healing
  const healedAt = performance.now()
  const [noticedS] = await Promise.all([noticing, until(isWell)])
  return { noticedS, recoveredS: (performance.now() - healedAt) / 1_000 }
}

async function until(holds: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 180_000
  while (performance.now() < deadline && !(await holds())) await delay(LOOK_MS)
}

/** The API answers durably, and the worker holds its lock, is on the register, and has been heard of in the last seconds. */
async function isWell(server: KillablePostgres, workerPid: number | undefined, load: Load): Promise<boolean> {
  if (!(await load.isAnswered())) return false
  if (workerPid === undefined) return true
  const rows = await server.query(
    `select from mail.worker w
     join pg_locks l on l.locktype = 'advisory' and l.objid = w.number and l.granted
     where split_part(w.name, ':', 2) = $1 and w.seen_at > clock_timestamp() - interval '7 seconds'`,
    [String(workerPid)],
  )
  return rows.length > 0
}

async function stateOf(server: KillablePostgres): Promise<{ rescued: number; heldUp: number }> {
  const [row] = await server.query<{ rescued: number; held_up: number }>(
    `select
       (select count(*)::integer from mail.event where type = 'recovered') as rescued,
       (select count(*)::integer from pg_stat_activity
        where state like 'idle in transaction%' and state_change < clock_timestamp() - interval '5 seconds') as held_up`,
  )
  return { rescued: row?.rescued ?? 0, heldUp: row?.held_up ?? 0 }
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
    const refused = new Map<number, number>()
    for (const report of this.#reports)
      for (const [status, times] of report.refused) refused.set(status, (refused.get(status) ?? 0) + times)
    return {
      broken: this.#reports.reduce((sum, { broken }) => sum + broken, 0),
      refused,
      doubled: this.#reports.flatMap(({ doubled }) => doubled),
      weaker: this.#reports.flatMap(({ weaker }) => weaker),
    }
  }
}
