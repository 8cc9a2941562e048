import { eventually } from '../../../test/support/eventually.ts'
import type { KillablePostgres } from '../../../test/support/killable-postgres.ts'
import { startAddress } from '../../../test/support/standby.ts'
import { KEEPS_WAL, recoverTo, startRestored, takeBaseBackup } from '../base-backup.ts'
import { recipientOf, runClients } from '../clients.ts'
import { untilDrained } from '../drain.ts'
import { failureRun, type Scene } from '../run.ts'
import { type RecordingSink, startRecordingSink } from '../sink.ts'
import { spawnSluice, startPostgres } from '../sluice.ts'

/** Mail that comes after the restore. */
const NEW_MAILS = 20
/** The looks of a process that sends: it would have claimed in one of them. */
const LOOKS = 3

/**
 * How the database is brought back:
 * - backup: the files of a base backup; new processes, nobody remembers;
 * - point-in-time: the same, and the WAL up to a moment after it, on a new timeline;
 * - survivors: the files of a base backup, under processes that live and are led there.
 */
type Way = 'backup' | 'point-in-time' | 'survivors'

type Scale = { readonly messages: number; readonly ways: readonly Way[] }

/** A backup is taken while mail goes out, the rest goes out as well, and then the backup is all there is. */
export const restoredBackup = failureRun<Scale>({
  name: 'restored-backup',
  promise:
    'a database restored from a backup sends nothing until a person releases it, and then nothing twice',
  limitMinutes: 20,
  full: { messages: 5_000, ways: ['backup', 'point-in-time', 'survivors'] },
  short: { messages: 100, ways: ['point-in-time'] },
  perform: async (scene, { messages, ways }) => {
    const broken: string[] = []
    const figures: Record<string, number> = {}
    let first = 1
    for (const way of ways) {
      const restored = await restore(scene, { way, messages, first })
      broken.push(...restored.broken.map((each) => `${way}: ${each}`))
      figures[`at risk (${way})`] = restored.atRisk
      figures[`held after s (${way})`] = restored.heldAfterS
      first += messages + NEW_MAILS
    }
    const { ledger } = scene
    return { verdict: ledger.verdict(), longestGapS: ledger.longestGapS, recoveriesS: [], broken, figures }
  },
})

type Restored = { readonly broken: readonly string[]; readonly atRisk: number; readonly heldAfterS: number }

async function restore(
  scene: Scene,
  { way, messages, first }: { way: Way; messages: number; first: number },
): Promise<Restored> {
  const original = await startPostgres(scene, KEEPS_WAL)
  const address = await startAddress(scene, portOf(original.url))
  const url = new URL(original.url)
  url.port = String(address.port)
  // While the backup is taken nothing is answered: so much is on its way, and goes out afterwards.
  let answered = Promise.resolve()
  const sink = await startRecordingSink(scene, { onMail: () => answered })
  const environment = { SMTP_URL: sink.url, SLUICE_ACCEPT_TIMEOUT_MS: '2000' }
  let service = await spawnSluice(scene, url.href, environment)
  // Here a restore comes seconds after the backup.
  if (way !== 'survivors')
    await original.query('update mail.hold_setting set trusted_gap_s = 2, witness_wait_s = 1')

  const quarter = messages / 4
  const load = { ledger: scene.ledger, clients: 32, url: () => service.url }
  await runClients({ ...load, count: quarter, first })
  await eventually('a quarter went out', async () => sink.delivered() >= quarter, 120_000)
  const unanswered = Promise.withResolvers<void>()
  answered = unanswered.promise
  await runClients({ ...load, count: messages - quarter, first: first + quarter })
  const backup = await takeBaseBackup(scene, original)
  const [{ lsn } = { lsn: '' }] = await original.query<{ lsn: string }>('select pg_current_wal_lsn() as lsn')
  unanswered.resolve()
  await untilDrained(original, scene.ledger)
  // What lives has looked since.
  await beats(original, LOOKS)
  scene.say(`${way}: all ${messages} went out, and the server is lost`)
  if (way !== 'survivors') {
    service.process.kill('SIGTERM')
    await service.ended
  }
  // Whoever was connected is cut off, and nobody comes back: to them it is gone.
  address.leadTo(undefined)
  if (way === 'point-in-time') await recoverTo(backup, original, lsn)
  const server = await startRestored(scene, backup)
  address.leadTo(portOf(server.url))
  const startedAt = performance.now()
  if (way !== 'survivors') service = await spawnSluice(scene, url.href, environment)
  const broken = await examineHold(scene, server, sink, () => service.url, first + messages)
  return { ...broken, heldAfterS: (broken.heldAt - startedAt) / 1_000 }
}

/** Nothing goes out while it holds, new mail goes out after the release, and what waited is left to a person. */
async function examineHold(
  { ledger, say }: Scene,
  server: KillablePostgres,
  sink: RecordingSink,
  url: () => string,
  first: number,
): Promise<{ broken: string[]; atRisk: number; heldAt: number }> {
  const broken: string[] = []
  const [hold] = await eventually(
    'it holds',
    async () => {
      const rows = await server
        .query<{ reason: string }>('select reason from mail.sending_hold where released_at is null')
        .catch(() => [])
      return rows.length === 1 && rows
    },
    60_000,
  )
  const heldAt = performance.now()
  say(`it holds: ${hold?.reason}`)
  const before = sink.delivered()
  await runClients({ ledger, count: NEW_MAILS, clients: 4, url, first })
  await eventually(
    'all of it is processed',
    async () => {
      const rows = await server.query("select from mail.message where status in ('accepted', 'sending')")
      return rows.length === 0
    },
    60_000,
  )
  await beats(server, LOOKS)
  if (sink.delivered() > before) broken.push(`${sink.delivered() - before} mails went out before the release`)
  const [risk] = await server.query<{ messages: number }>(
    'select coalesce(sum(messages), 0)::integer as messages from mail.held where is_at_risk',
  )
  const atRisk = risk?.messages ?? 0
  if (atRisk === 0) broken.push('no mail waited in the backup, so this shows nothing')

  await server.query("select mail.release('set_aside')")
  const news = Array.from({ length: NEW_MAILS }, (_, n) => recipientOf(first + n))
  await eventually('what is new goes out', async () => sink.delivered() >= before + news.length, 60_000)
  await untilDrained(server, ledger)
  const [left] = await server.query<{ unknown: number }>(
    "select count(*)::integer as unknown from mail.message where status = 'unknown'",
  )
  if (left?.unknown !== atRisk) broken.push(`${left?.unknown} messages are unknown, ${atRisk} were at risk`)
  return { broken, atRisk, heldAt }
}

async function beats(server: KillablePostgres, count: number): Promise<void> {
  const read = async () =>
    Number((await server.query<{ beat: string }>('select beat from mail.lifeline'))[0]?.beat)
  const from = await read()
  await eventually('time goes on', async () => (await read()) >= from + count, 60_000)
}

function portOf(url: string): number {
  return Number(new URL(url).port)
}
