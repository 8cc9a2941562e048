import { eventually } from '../../../test/support/eventually.ts'
import { faultsOf, runClients } from '../clients.ts'
import { untilDrained } from '../drain.ts'
import { type KillOptions, killAtRandom } from '../kills.ts'
import { recoveryAfter } from '../recovery.ts'
import { failureRun } from '../run.ts'
import { startRecordingSink } from '../sink.ts'
import { openSlot, startPostgres } from '../sluice.ts'

/** Long enough that a death finds mails between their content and the answer. */
const SINK_DELAY_MS = 50
const PATIENCE_MS = 900_000

type Scale = Pick<KillOptions, 'pauseMs'> & {
  /** At least. */
  readonly messages: number
  /** Of each: the API alone, and processes that work. */
  readonly kills: number
  readonly perS: number
}

/**
 * Everything but Postgres dies, again and again, while mail comes in, for as long as it takes: what is left has to hold together
 * by the tables alone. How soon mail of the dead moves again is reported and not judged: those who would see to it die as well.
 */
export const bothKilled = failureRun<Scale>({
  name: 'both-killed',
  promise:
    'SIGKILL of API and workers under load, all at once: nothing lost, and twice only what was being sent',
  limitMinutes: 20,
  full: { messages: 20_000, kills: 50, perS: 120, pauseMs: [200, 1_500] },
  short: { messages: 300, kills: 1, perS: 80, pauseMs: [100, 400] },
  perform: async (scene, { messages, kills: count, perS, pauseMs }) => {
    const { ledger } = scene
    const server = await startPostgres(scene)
    const sink = await startRecordingSink(scene, { delayMs: SINK_DELAY_MS })
    const open = (roles: string) => openSlot(scene, server.url, { SMTP_URL: sink.url, SLUICE_ROLES: roles })
    const doors = [await open('api'), await open('api,worker')]
    const workers = [await open('worker'), await open('worker')]
    let asked = 0
    const url = () => {
      asked += 1
      return doors[asked % doors.length]?.current().url ?? ''
    }
    const isOver = new AbortController()
    const killing = { count, pauseMs, isGoing: () => true }
    const [clients, [apiKills, workerKills]] = await Promise.all([
      runClients({ ledger, count: Number.POSITIVE_INFINITY, clients: 64, perS, url, signal: isOver.signal }),
      Promise.all([
        killAtRandom(doors.slice(0, 1), { ...killing, isWorker: false }),
        killAtRandom([...doors.slice(1), ...workers], { ...killing, isWorker: true }),
        eventually('enough was acknowledged', async () => ledger.acknowledged >= messages, PATIENCE_MS),
      ]).finally(() => isOver.abort()),
    ])
    await untilDrained(server, ledger)
    const recovery = await recoveryAfter(server, workerKills)
    const unexplained = ledger.duplicates().filter(({ id }) => !recovery.ids.has(id))
    const kills = apiKills.length + workerKills.length
    return {
      verdict: ledger.verdict(),
      longestGapS: ledger.longestGapS,
      recoveriesS: recovery.recoveriesS,
      allowedDuplicates: recovery.recoveriesS.length,
      allowedSetAside: recovery.usedUp,
      broken: [
        ...recovery.unexplained,
        ...faultsOf(clients),
        ...(unexplained.length > 0
          ? [`${unexplained.length} messages came twice although no dead worker had been sending them`]
          : []),
      ],
      figures: {
        kills,
        'in flight at a death': recovery.recoveriesS.length,
        'dead after three deaths': recovery.usedUp,
        'requests without an answer': clients.broken,
        'answers 503': clients.refused.get(503) ?? 0,
      },
    }
  },
})
