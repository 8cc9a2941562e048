import { setTimeout as delay } from 'node:timers/promises'
import { type ClientsOptions, faultsOf, mergeReports, runClients } from '../clients.ts'
import { untilDrained } from '../drain.ts'
import { type Link, missingForNamespaces, openLinkedNamespace } from '../linked-namespace.ts'
import { startReachablePostgres } from '../reachable-postgres.ts'
import { failureRun, type Outcome, type Scene } from '../run.ts'
import { startRecordingSink } from '../sink.ts'
import { spawnSluice } from '../sluice.ts'
import { endedAmong, takenOver, watchCrowding } from '../survivors.ts'

/** Mails are in every step of a send when the link goes. */
const SINK_DELAY_MS = 200
const CLIENTS = 128
/** Some mails are so large that a cut falls between their bytes. */
const LARGE_EACH = 10
const LARGE_CHARS = 300_000
/** Of load before each cut. */
const BEFORE_MS = 2_000
const LOOK_MS = 100
const RECOVERY_LIMIT_MS = 180_000

type Scale = { readonly cutsS: readonly number[]; readonly perS: number }

const SCALES = {
  limitMinutes: 20,
  full: { cutsS: [5, 30, 120], perS: 40 },
  short: { cutsS: [3], perS: 20 },
  missing: missingForNamespaces,
}

/**
 * The cable between Sluice and Postgres is pulled and put back. What the cut-off worker was sending is taken over by another
 * one that still reaches the database.
 */
export const linkCut = failureRun<Scale>({
  name: 'link-cut',
  promise:
    'with the link to Postgres cut nothing is lost, and twice comes at most what a cut-off worker was sending',
  ...SCALES,
  perform: async (scene, scale) => {
    const space = await openLinkedNamespace(scene)
    const server = await startReachablePostgres(scene, space.database.near)
    const sink = await startRecordingSink(scene, { delayMs: SINK_DELAY_MS, host: space.outside.near })
    const environment = { SMTP_URL: `${sink.url}?tls=none`, SLUICE_ACCEPT_TIMEOUT_MS: '3000' }
    const inside = (more: Readonly<Record<string, string>>) =>
      spawnSluice(
        scene,
        server.urlAt(space.database.near),
        { ...environment, ...more },
        { prefix: space.prefix },
      )
    const api = await inside({ SLUICE_ROLES: 'api', HOST: space.outside.far })
    const services = [
      api,
      await inside({ SLUICE_ROLES: 'worker' }),
      await spawnSluice(scene, server.url, { ...environment, SLUICE_ROLES: 'worker' }),
    ]
    const outcome = await cutAgainAndAgain(scene, space.database, scale, {
      url: () => api.url,
      untilDrained: () => untilDrained(server, scene.ledger),
    })
    const rescued = await takenOver(server)
    return {
      ...outcome,
      allowedDuplicates: rescued,
      broken: [...outcome.broken, ...endedAmong(services)],
      figures: { ...outcome.figures, 'taken over from a cut-off worker': rescued },
    }
  },
})

/** The cable between the workers and the relay is pulled and put back, in the middle of mails. */
export const relayCut = failureRun<Scale>({
  name: 'relay-cut',
  isOfPostgres: false,
  promise:
    'with the link to the relay cut nothing is lost, and only a send whose answer never came is repeated, where its stream says so',
  ...SCALES,
  perform: async (scene, scale) => {
    const space = await openLinkedNamespace(scene)
    const server = await startReachablePostgres(scene, space.database.near)
    const sink = await startRecordingSink(scene, { delayMs: SINK_DELAY_MS, host: space.outside.near })
    const timeouts = 'connect_timeout_s=2&greeting_timeout_s=2&socket_timeout_s=2'
    const environment = { SMTP_URL: `${sink.url}?tls=none&${timeouts}` }
    const api = await spawnSluice(scene, server.url, { ...environment, SLUICE_ROLES: 'api' })
    await server.query('update mail.stream set backoff_base_s = 1, backoff_factor = 1, attempts = 20')
    await server.query("update mail.stream set on_unknown = 'hold' where name = 'alerts'")
    const url = server.urlAt(space.database.near)
    const worker = await spawnSluice(
      scene,
      url,
      { ...environment, SLUICE_ROLES: 'worker' },
      { prefix: space.prefix },
    )
    const outcome = await cutAgainAndAgain(scene, space.outside, scale, {
      url: () => api.url,
      untilDrained: () => untilDrained(server, scene.ledger),
      mail: (n) => ({
        ...(n % 2 === 0 ? { stream: 'alerts' } : {}),
        ...(n % LARGE_EACH === 0 ? { text: 'x'.repeat(LARGE_CHARS) } : {}),
      }),
    })
    const doubts = await server.query<{ id: string; stream: string }>(
      `select m.id, m.stream from mail.event e join mail.message m on m.id = e.message_id where e.type = 'unknown'`,
    )
    const repeated = new Set(doubts.filter(({ stream }) => stream !== 'alerts').map(({ id }) => id))
    const unexplained = scene.ledger.duplicates().filter(({ id }) => !repeated.has(id))
    return {
      ...outcome,
      allowedDuplicates: doubts.length,
      broken: [
        ...outcome.broken,
        ...endedAmong([api, worker]),
        ...(unexplained.length > 0
          ? [`${unexplained.length} messages came twice although their answer came, or their stream holds`]
          : []),
      ],
      figures: { ...outcome.figures, 'sends without an answer': doubts.length },
    }
  },
})

type Load = Pick<ClientsOptions, 'url' | 'mail'> & { readonly untilDrained: () => Promise<void> }

/** Under a steady load that ends when all goes on; then it waits for everything that was handed over. */
async function cutAgainAndAgain(
  { ledger, say }: Scene,
  link: Link,
  { cutsS, perS }: Scale,
  { untilDrained, ...load }: Load,
): Promise<Outcome> {
  const crowding = watchCrowding()
  const reports = []
  const recoveriesS: number[] = []
  const catchUpsS: number[] = []
  for (const [nth, cutS] of cutsS.entries()) {
    const ending = new AbortController()
    const loading = runClients({
      ...load,
      ...{ ledger, perS, clients: CLIENTS, first: nth * 1_000_000 + 1, count: Number.POSITIVE_INFINITY },
      signal: ending.signal,
    })
    await delay(BEFORE_MS)
    link.cut()
    await delay(cutS * 1_000)
    link.heal()
    const healedAt = performance.now()
    const secondsSince = () => (performance.now() - healedAt) / 1_000
    const [acknowledged, delivered] = [ledger.acknowledged, ledger.delivered]
    while (
      (ledger.acknowledged === acknowledged || ledger.delivered === delivered) &&
      performance.now() < healedAt + RECOVERY_LIMIT_MS
    ) {
      await delay(LOOK_MS)
    }
    recoveriesS.push(secondsSince())
    ending.abort()
    reports.push(await loading)
    await untilDrained()
    catchUpsS.push(secondsSince())
    say(`${cutS} s: went on after ${recoveriesS.at(-1)} s, caught up after ${catchUpsS.at(-1)} s`)
  }
  const report = mergeReports(reports)
  const isLate = report.broken > 0 && !crowding.isCrowded()
  return {
    verdict: ledger.verdict(),
    longestGapS: ledger.longestGapS,
    recoveriesS,
    broken: [...faultsOf(report), ...(isLate ? [`${report.broken} requests had no answer in time`] : [])],
    figures: {
      ...crowding.figures(),
      cuts: cutsS.join(', '),
      'caught up after s, at most': Math.max(...catchUpsS),
      'answers 503': report.refused.get(503) ?? 0,
      'requests without an answer': report.broken,
    },
  }
}
