import { setTimeout as delay } from 'node:timers/promises'
import type { KillablePostgres } from '../../../test/support/killable-postgres.ts'
import { FIRST_BY_SQL, faultsOf, insertAll, runClients } from '../clients.ts'
import { untilDrained } from '../drain.ts'
import { failureRun } from '../run.ts'
import { startRecordingSink } from '../sink.ts'
import { spawnSluice, startPostgres } from '../sluice.ts'
import { endedAmong, takenOver, watchCrowding } from '../survivors.ts'

const SINK_DELAY_MS = 20
const EACH_MS = 200
/** Now and then not one but all. */
const ALL_EACH = 10
/** Of the messages by SQL, so many with each statement. */
const INSERT_ROWS = 100

/**
 * Server processes are ended one after the other, whatever they are doing: claims, moves, commits, the sessions of workers.
 * No worker dies, so each of them knows what it sent, and nothing may come twice.
 */
export const backendsTerminated = failureRun({
  name: 'backends-terminated',
  promise:
    'connections ended at random, five a second, lose nothing, double nothing, and cost a caller at most a 503',
  limitMinutes: 15,
  full: { byRest: 5_000, bySql: 5_000, perS: 100, least: 100 },
  short: { byRest: 150, bySql: 200, perS: 50, least: 5 },
  perform: async (scene, { byRest, bySql, perS, least }) => {
    const { ledger } = scene
    const server = await startPostgres(scene)
    const sink = await startRecordingSink(scene, { delayMs: SINK_DELAY_MS })
    const environment = { SMTP_URL: sink.url }
    const api = await spawnSluice(scene, server.url, { ...environment, SLUICE_ROLES: 'api' })
    const workers = [
      await spawnSluice(scene, server.url, { ...environment, SLUICE_ROLES: 'worker' }),
      await spawnSluice(scene, server.url, { ...environment, SLUICE_ROLES: 'worker' }),
    ]
    const crowding = watchCrowding()
    const startedAt = performance.now()
    const ending = new AbortController()
    const terminating = terminateBackends(server, ending.signal)
    const [clients] = await Promise.all([
      runClients({ ledger, count: byRest, clients: 64, perS, url: () => api.url }),
      inPieces(bySql, (byRest / perS) * 1_000, (first, count) => insertAll(server, ledger, count, { first })),
    ])
    await untilDrained(server, ledger)
    ending.abort()
    const terminated = await terminating
    const seconds = (performance.now() - startedAt) / 1_000
    const rescued = await takenOver(server)
    return {
      verdict: ledger.verdict(),
      longestGapS: ledger.longestGapS,
      recoveriesS: [],
      // A session that is not back within the grace of three seconds counts as a death, as on a machine that is too busy.
      allowedDuplicates: rescued,
      broken: [
        ...(terminated < least ? [`only ${terminated} server processes were ended`] : []),
        ...faultsOf(clients),
        ...(clients.broken > 0 && !crowding.isCrowded() ? [`${clients.broken} requests had no answer`] : []),
        ...(rescued > 0 && !crowding.isCrowded()
          ? [`${rescued} messages were taken from workers that lived`]
          : []),
        ...endedAmong([api, ...workers]),
      ],
      figures: {
        ...crowding.figures(),
        'server processes ended': terminated,
        'taken over from workers': rescued,
        'answers 503': clients.refused.get(503) ?? 0,
        'messages/s': (byRest + bySql) / seconds,
      },
    }
  },
})

async function terminateBackends({ query }: KillablePostgres, signal: AbortSignal): Promise<number> {
  let terminated = 0
  for (let nth = 1; !signal.aborted; nth += 1) {
    const ended = await query(
      `select pg_terminate_backend(pid) from (
         select pid from pg_stat_activity where application_name like 'sluice%' order by random() limit $1
       ) chosen`,
      [nth % ALL_EACH === 0 ? null : 1],
    )
    terminated += ended.length
    await delay(EACH_MS)
  }
  return terminated
}

/** Spread over about so long a time. */
async function inPieces(
  count: number,
  overMs: number,
  insert: (first: number, count: number) => Promise<void>,
): Promise<void> {
  for (let done = 0; done < count; done += INSERT_ROWS) {
    await insert(FIRST_BY_SQL + done, Math.min(INSERT_ROWS, count - done))
    await delay((overMs * INSERT_ROWS) / count)
  }
}
