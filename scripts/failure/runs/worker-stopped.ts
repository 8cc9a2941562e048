import { migrate } from '../../../src/db/migrate.ts'
import { createLog } from '../../../src/log.ts'
import { eventually } from '../../../test/support/eventually.ts'
import type { KillablePostgres } from '../../../test/support/killable-postgres.ts'
import type { SpawnedService } from '../../../test/support/service.ts'
import { insertAll, recipientOf } from '../clients.ts'
import { untilDrained } from '../drain.ts'
import { failureRun } from '../run.ts'
import { startRecordingSink, type Verb } from '../sink.ts'
import { spawnSluice, startPostgres } from '../sluice.ts'
import { timesIn } from '../times-in.ts'

/** What a send waits for while its worker is stopped. Only after the content has the relay the whole of a mail. */
const STEPS = ['CONNECT', 'MAIL', 'DATA', 'content'] as const
const TOO_LATE = 'outcome came too late: the message was given to someone else'
const LIMIT_MS = 120_000
/** More than one piece for the kernel: the end of such a mail is written apart. */
const LARGE = `<p>${'Thank you. '.repeat(4_000)}</p>`

/**
 * A worker stops in the middle of its sends, and Postgres ends its sessions, as it does when a machine sleeps. Others take
 * its mail. When it goes on, its relay answers every command that was waiting: what it had not handed over it must not
 * hand over now, and what it learns it must not write.
 */
export const workerStopped = failureRun({
  name: 'worker-stopped',
  promise:
    'a worker that was stopped until others took its mail, and goes on, sends nothing more of it and settles nothing',
  limitMinutes: 5,
  full: { again: 700, held: 300 },
  short: { again: 60, held: 20 },
  perform: async (scene, { again, held }) => {
    const { ledger } = scene
    const server = await startPostgres(scene)
    await migrate({ url: server.url, log: createLog('silent') })
    await server.query(
      `update mail.stream set slots = case name when 'transactional' then $1::integer else $2::integer end
       where name in ('transactional', 'marketing')`,
      [again, held],
    )
    const gate = openGate()
    const stale = await startRecordingSink(scene, gate.options)
    const fresh = await startRecordingSink(scene)
    const sleeper = await spawnSluice(scene, server.url, { SMTP_URL: stale.url, SLUICE_ROLES: 'worker' })
    await insertAll(server, ledger, again - Math.floor(again / 4))
    const large = { first: again - Math.floor(again / 4) + 1, mail: { html: LARGE } }
    await insertAll(server, ledger, Math.floor(again / 4), large)
    await insertAll(server, ledger, held, { first: again + 1, stream: 'marketing' })
    await eventually(
      'every message is in the middle of its send',
      async () => gate.waiting() === again + held,
      LIMIT_MS,
    )
    const stoppedAt = await stopUntilDead(server, sleeper)
    const handedOver = gate.handedOver()

    await spawnSluice(scene, server.url, { SMTP_URL: fresh.url, SLUICE_ROLES: 'worker' })
    await untilDrained(server, ledger)
    const before = await statesIn(server)
    gate.release()
    process.kill(sleeper.pid, 'SIGCONT')
    const isOver = async () => timesIn(sleeper.output(), TOO_LATE) >= again + held
    await eventually('the worker that slept has given up all its sends', isOver, LIMIT_MS)
    await untilDrained(server, ledger)

    return {
      verdict: ledger.verdict(),
      longestGapS: ledger.longestGapS,
      recoveriesS: await recoveriesIn(server, stoppedAt),
      allowedSetAside: held,
      allowedDuplicates: handedOver.filter((key) => isOfFirst(key, again)).length,
      broken: [
        ...brokenBy(gate.taken(), handedOver, before, await statesIn(server)),
        ...(before.unknown === held ? [] : [`of ${held} messages ${before.unknown} were held as unknown`]),
        ...(before.sent === again
          ? []
          : [`of ${again} messages ${before.sent} were sent by the other worker`]),
      ],
      figures: {
        'claimed by the stopped worker': again + held,
        'handed over before it stopped': handedOver.length,
        'handed over after it went on': gate.taken().length - handedOver.length,
        'outcomes it could not write': timesIn(sleeper.output(), TOO_LATE),
      },
    }
  },
})

/** Holds each connection of a sink at one of the steps, in turn. */
function openGate() {
  const released = Promise.withResolvers<void>()
  const handedOver: string[] = []
  const taken: string[] = []
  let waiting = 0
  const holdAt = (step: Verb | 'content', connection: number): Promise<void> | undefined => {
    if (STEPS[connection % STEPS.length] !== step) return undefined
    waiting += 1
    return released.promise
  }
  return {
    options: {
      onCommand: holdAt,
      onMail: async (recipients: readonly string[], connection: number) => {
        const hold = holdAt('content', connection)
        if (hold !== undefined) handedOver.push(...recipients)
        await hold
        taken.push(...recipients)
      },
    },
    waiting: () => waiting,
    handedOver: () => [...handedOver],
    taken: () => taken,
    release: () => released.resolve(),
  }
}

/** Unix milliseconds of the stop. Its sessions end while it sleeps: nobody tells it. */
async function stopUntilDead(server: KillablePostgres, sleeper: SpawnedService): Promise<number> {
  const at = Date.now()
  process.kill(sleeper.pid, 'SIGSTOP')
  await server.query(
    "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name in ('sluice', 'sluice worker')",
  )
  return at
}

type States = { readonly sent: number; readonly unknown: number; readonly digest: string }

/** What the tables say of every message: how many stand where, and all of it as one text. */
async function statesIn({ query }: KillablePostgres): Promise<States> {
  const [row] = await query<States>(
    `select count(*) filter (where status = 'sent')::integer as sent,
       count(*) filter (where status = 'unknown')::integer as unknown,
       md5(string_agg(concat_ws(' ', m.id, m.status, m.attempts, m.claimed_at, (
         select string_agg(e.type || e.id, ',' order by e.id) from mail.event e where e.message_id = m.id
       )), ';' order by m.id)) as digest
     from mail.message m`,
  )
  return row ?? { sent: 0, unknown: 0, digest: '' }
}

function brokenBy(
  taken: readonly string[],
  handedOver: readonly string[],
  before: States,
  after: States,
): string[] {
  const late = taken.filter((key) => !handedOver.includes(key))
  return [
    ...(late.length > 0
      ? [
          `${late.length} messages were handed over after others had taken them: ${late.slice(0, 5).join(', ')}`,
        ]
      : []),
    ...(after.digest === before.digest ? [] : ['the worker that slept changed what others had settled']),
  ]
}

async function recoveriesIn({ query }: KillablePostgres, stoppedAt: number): Promise<number[]> {
  const rows = await query<{ at: Date }>("select at from mail.event where type in ('recovered', 'unknown')")
  return rows.map(({ at }) => (at.getTime() - stoppedAt) / 1_000)
}

function isOfFirst(key: string, count: number): boolean {
  return Array.from({ length: count }, (_, n) => recipientOf(n + 1)).includes(key)
}
