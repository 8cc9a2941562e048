import { setTimeout as delay } from 'node:timers/promises'
import type { KillablePostgres } from '../../../test/support/killable-postgres.ts'
import { percentile } from '../../bench/statistics.ts'
import { FIRST_BY_SQL, faultsOf, insertSteadily, runClients } from '../clients.ts'
import { untilDrained } from '../drain.ts'
import { failureRun } from '../run.ts'
import { startRecordingSink } from '../sink.ts'
import { missingCompiler, type SlowDisk, startOnSlowDisk } from '../slow-disk.ts'
import { spawnSluice } from '../sluice.ts'
import { endedAmong, takenOver, watchCrowding } from '../survivors.ts'
import { timesIn } from '../times-in.ts'

const SINK_DELAY_MS = 20
const SLOW_MS = 200
const SPIKE_MS = 2_000
/** Less than a spike: callers wait no longer, and hear 503. */
const ACCEPT_TIMEOUT_MS = 1_500

type Phase = 'as it is' | 'slow' | 'spikes' | 'stalls'
type Times = Record<Phase, number[]>

/**
 * Every sync takes 200 ms longer, then some take seconds. All is slower, and nothing else is: nobody is taken for dead for it.
 */
export const slowFsync = failureRun({
  name: 'slow-fsync',
  promise:
    'a slow disk makes answers slow, or 503, and nothing else: no living worker is taken for dead, nothing comes twice',
  limitMinutes: 10,
  isOfPostgres: false,
  full: { perS: 50, phaseS: 30, stallMs: 7_000, workers: 2 },
  short: { perS: 30, phaseS: 1.5, stallMs: 0, workers: 1 },
  missing: missingCompiler,
  perform: async (scene, { perS, phaseS, stallMs, workers }) => {
    const { ledger } = scene
    const { server, disk } = await startOnSlowDisk(scene)
    const sink = await startRecordingSink(scene, { delayMs: SINK_DELAY_MS })
    const environment = { SMTP_URL: sink.url, SLUICE_ACCEPT_TIMEOUT_MS: String(ACCEPT_TIMEOUT_MS) }
    const api = await spawnSluice(scene, server.url, { ...environment, SLUICE_ROLES: 'api' })
    const services = [api]
    while (services.length <= workers)
      services.push(await spawnSluice(scene, server.url, { ...environment, SLUICE_ROLES: 'worker' }))
    const crowding = watchCrowding()
    const times: Times = { 'as it is': [], slow: [], spikes: [], stalls: [] }
    let phase: Phase = 'as it is'
    const isOver = new AbortController()
    const load = Promise.all([
      runClients({
        ...{ ledger, clients: 64, perS, signal: isOver.signal },
        count: Number.POSITIVE_INFINITY,
        url: () => api.url,
        onAnswer: (status, tookMs) => {
          if (status === 200) times[phase].push(tookMs)
        },
      }),
      insertSteadily(server, ledger, { first: FIRST_BY_SQL, perS, signal: isOver.signal }),
    ])
    await delay(phaseS * 1_000)
    phase = 'slow'
    await disk.slowBy(SLOW_MS)
    await delay(phaseS * 1_000)
    phase = 'spikes'
    await inSpikes(disk, SPIKE_MS, phaseS)
    if (stallMs > 0) {
      phase = 'stalls'
      await inSpikes(disk, stallMs, phaseS)
    }
    await disk.asItIs()
    isOver.abort()
    const [clients] = await load
    await untilDrained(server, ledger)
    const rescued = await takenOver(server)
    const lostSessions = services.reduce(
      (sum, { output }) => sum + timesIn(output(), 'worker session lost'),
      0,
    )
    return {
      verdict: ledger.verdict(),
      longestGapS: ledger.longestGapS,
      recoveriesS: [],
      broken: [
        ...faultsOf(clients),
        ...endedAmong(services),
        ...(clients.broken > 0 && !crowding.isCrowded() ? [`${clients.broken} requests had no answer`] : []),
        ...(rescued > 0 ? [`${rescued} messages were taken from workers that lived`] : []),
        ...((await registered(server)) > workers ? ['a worker that lived was taken for dead'] : []),
        ...(lostSessions > 0 && !crowding.isCrowded()
          ? [`${lostSessions} sessions of workers were given up`]
          : []),
      ],
      figures: {
        ...crowding.figures(),
        'answers 503': clients.refused.get(503) ?? 0,
        'sessions given up': lostSessions,
        ...Object.fromEntries(
          Object.entries(times)
            .filter(([, each]) => each.length > 0)
            .flatMap(([name, each]) => [
              [`${name}: p50 ms`, percentile(each, 50)],
              [`${name}: p99 ms`, percentile(each, 99)],
            ]),
        ),
      },
    }
  },
})

/** Half of the time each sync takes so long, and half of it none does. */
async function inSpikes(disk: SlowDisk, ms: number, seconds: number): Promise<void> {
  const until = performance.now() + seconds * 1_000
  while (performance.now() < until) {
    await disk.slowBy(ms)
    await delay(ms / 2)
    await disk.asItIs()
    await delay(ms / 2)
  }
}

/** Numbers that were ever given to workers. */
async function registered({ query }: KillablePostgres): Promise<number> {
  const [row] = await query<{ number: number }>('select max(number)::integer as number from mail.worker')
  return row?.number ?? 0
}
