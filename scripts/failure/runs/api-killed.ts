import { faultsOf, runClients } from '../clients.ts'
import { untilDrained } from '../drain.ts'
import { killAtRandom } from '../kills.ts'
import { failureRun } from '../run.ts'
import { startRecordingSink } from '../sink.ts'
import { openSlot, spawnSluice, startPostgres } from '../sluice.ts'

/**
 * The processes that accept mail die by SIGKILL in the middle of requests. Clients repeat what has no answer under the same
 * key, so that each message exists once, whether or not its first answer was lost.
 */
export const apiKilled = failureRun({
  name: 'api-killed',
  promise:
    'SIGKILL of the API loses nothing that was answered, and a repeat under its key makes no second message',
  limitMinutes: 15,
  full: { messages: 20_000, kills: 50, perS: 250 },
  short: { messages: 200, kills: 2, perS: 60 },
  perform: async (scene, { messages, kills: count, perS }) => {
    const { ledger } = scene
    const server = await startPostgres(scene)
    const sink = await startRecordingSink(scene)
    await spawnSluice(scene, server.url, { SMTP_URL: sink.url, SLUICE_ROLES: 'worker' })
    const environment = { SMTP_URL: sink.url, SLUICE_ROLES: 'api' }
    const slots = [
      await openSlot(scene, server.url, environment),
      await openSlot(scene, server.url, environment),
    ]
    let asked = 0
    const url = () => {
      asked += 1
      return slots[asked % slots.length]?.current().url ?? ''
    }
    let isHandingOver = true
    const [clients, kills] = await Promise.all([
      runClients({ ledger, count: messages, clients: 64, perS, url }).finally(() => {
        isHandingOver = false
      }),
      killAtRandom(slots, { count, pauseMs: [200, 1_500], isGoing: () => isHandingOver, isWorker: false }),
    ])
    await untilDrained(server, ledger)
    const [stored] = await server.query<{ messages: number }>(
      `select count(*)::integer as messages from mail.message`,
    )
    return {
      verdict: ledger.verdict(),
      longestGapS: ledger.longestGapS,
      recoveriesS: [],
      broken: [
        ...(kills.length < count ? [`only ${kills.length} of ${count} kills came before the end`] : []),
        ...faultsOf(clients),
        ...(stored?.messages === messages ? [] : [`${messages} keys made ${stored?.messages} messages`]),
      ],
      figures: {
        kills: kills.length,
        'requests without an answer': clients.broken,
        'answers 503': clients.refused.get(503) ?? 0,
      },
    }
  },
})
