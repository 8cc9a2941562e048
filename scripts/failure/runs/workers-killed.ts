import { setTimeout as delay } from 'node:timers/promises'
import { percentile } from '../../bench/statistics.ts'
import { insertAll } from '../clients.ts'
import { untilDrained } from '../drain.ts'
import { killAtRandom } from '../kills.ts'
import { RECOVERY_LIMIT_S, recoveryAfter } from '../recovery.ts'
import { failureRun } from '../run.ts'
import { startRecordingSink } from '../sink.ts'
import { openSlot, startPostgres } from '../sluice.ts'

/** Long enough that a death finds mails between their content and the answer. */
const SINK_DELAY_MS = 150
const LOOK_EACH_MS = 50

type Scale = {
  readonly messages: number
  readonly kills: number
  readonly workers: number
  readonly recoveryLimitS: number | undefined
}

/**
 * Workers die by SIGKILL at any moment, over and over, and are started again. Only what was being sent may come twice, and
 * all of it moves again soon.
 */
export const workersKilled = failureRun<Scale>({
  name: 'workers-killed',
  promise: 'SIGKILL of workers loses nothing, and only what was being sent at that moment may be sent twice',
  limitMinutes: 15,
  full: { messages: 20_000, kills: 50, workers: 4, recoveryLimitS: RECOVERY_LIMIT_S },
  // A machine with other work to do takes longer.
  short: { messages: 800, kills: 2, workers: 2, recoveryLimitS: undefined },
  perform: async (scene, { messages, kills: count, workers, recoveryLimitS }) => {
    const { ledger } = scene
    const server = await startPostgres(scene)
    const sink = await startRecordingSink(scene, { delayMs: SINK_DELAY_MS })
    const environment = { SMTP_URL: sink.url, SLUICE_ROLES: 'worker' }
    const slots = []
    while (slots.length < workers) slots.push(await openSlot(scene, server.url, environment))
    await insertAll(server, ledger, messages)
    // Before, no death could find anything in flight.
    while (ledger.delivered === 0) await delay(LOOK_EACH_MS)
    const kills = await killAtRandom(slots, {
      count,
      pauseMs: [300, 2_500],
      isGoing: () => ledger.delivered < messages,
      isWorker: true,
    })
    await untilDrained(server, ledger)
    const recovery = await recoveryAfter(server, kills)
    const duplicates = ledger.duplicates()
    const unexplained = duplicates.filter(({ id }) => !recovery.ids.has(id))
    const p95 = percentile(recovery.recoveriesS, 95)
    return {
      verdict: ledger.verdict(),
      longestGapS: ledger.longestGapS,
      recoveriesS: recovery.recoveriesS,
      allowedDuplicates: recovery.recoveriesS.length,
      allowedSetAside: recovery.usedUp,
      broken: [
        ...recovery.unexplained,
        ...(kills.length < count ? [`only ${kills.length} of ${count} kills came before the end`] : []),
        ...(unexplained.length > 0
          ? [`${unexplained.length} messages came twice although no dead worker had been sending them`]
          : []),
        ...(recovery.recoveriesS.length === 0
          ? ['nothing was in flight at a death, so this shows nothing']
          : []),
        ...(recoveryLimitS !== undefined && p95 > recoveryLimitS
          ? [`messages moved again after ${p95} s (p95), ${recoveryLimitS} are promised`]
          : []),
      ],
      figures: {
        kills: kills.length,
        'in flight at a death': recovery.recoveriesS.length,
        'dead after three deaths': recovery.usedUp,
      },
    }
  },
})
