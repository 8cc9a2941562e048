/** What a message leaves behind: bytes of the database and of its log, by table, and memory of every process. */
import type { Client } from 'pg'
import { insertMails } from './inserts.ts'
import { highestMemoryMb, sharedOnceMb } from './memory.ts'
import { orderMessage } from './order.ts'
import type { BenchOptions, Findings } from './report.ts'
import { publishTemplate, type Rig, startService, withClient } from './rig.ts'
import { startOwnSink } from './sink.ts'
import { readable, table } from './statistics.ts'
import { firstSeq, untilSettled } from './stored.ts'
import { largestTables, walPosition } from './watch.ts'

const MILLION = 1_000_000
const TABLES = 10
const MEMORY_LOOK_MS = 250

export async function footprint(rig: Rig, { footprintMails, profileDir }: BenchOptions): Promise<Findings> {
  const databaseUrl = await rig.createDatabase('footprint')
  const sink = await startOwnSink(rig.guard)
  const start = (roles: 'api' | 'worker') =>
    startService(rig, { databaseUrl, smtpUrl: sink.url, roles, profileDir })
  const api = await start('api')
  const worker = await start('worker')
  await publishTemplate(api.url)
  let postgresMb = 0
  const look = () => {
    postgresMb = Math.max(postgresMb, sharedOnceMb(rig.postgres))
  }
  const looking = setInterval(look, MEMORY_LOOK_MS)
  const found = await withClient(databaseUrl, async (client) => {
    const before = await measure(client)
    const seq = await firstSeq(client)
    await insertMails(client, footprintMails, orderMessage)
    const { lost } = await untilSettled(client, seq, footprintMails)
    const after = await measure(client)
    return { before, after, lost, tables: await largestTables(client, TABLES) }
  })
  clearInterval(looking)
  const memory = [
    { process: 'api', mb: highestMemoryMb(api.watched.pid) },
    { process: 'worker', mb: highestMemoryMb(worker.watched.pid) },
    { process: 'Postgres, all of it', mb: postgresMb },
  ]
  for (const service of [api, worker]) await service.stop()
  sink.close()
  return findingsOf({ ...found, memory, mails: footprintMails })
}

type Extent = { readonly databaseBytes: number; readonly walBytes: bigint; readonly walImageBytes: number }

async function measure(client: Client): Promise<Extent> {
  const { rows } = await client.query<{ size: string; images: string }>(
    `select pg_database_size(current_database()) as size,
       (select wal_fpi * current_setting('block_size')::integer from pg_stat_wal) as images`,
  )
  const walBytes = await walPosition(client)
  return { databaseBytes: Number(rows[0]?.size), walBytes, walImageBytes: Number(rows[0]?.images) }
}

type Found = {
  readonly before: Extent
  readonly after: Extent
  readonly lost: number
  readonly tables: Awaited<ReturnType<typeof largestTables>>
  readonly memory: readonly { readonly process: string; readonly mb: number }[]
  readonly mails: number
}

function findingsOf({ before, after, lost, tables, memory, mails }: Found): Findings {
  const kb = (bytes: number) => bytes / mails / 1e3
  const gbAMillion = (bytes: number) => (bytes / mails) * (MILLION / 1e9)
  const database = after.databaseBytes - before.databaseBytes
  const wal = Number(after.walBytes - before.walBytes)
  const images = after.walImageBytes - before.walImageBytes
  return {
    data: { mails, databaseBytes: database, walBytes: wal, walImageBytes: images, memory, tables },
    lost,
    text: [
      `${mails.toLocaleString('en-US')} order confirmations, one API and one worker process. What a million takes is extrapolated from them.`,
      '',
      table(
        ['of a message', 'kB', 'GB a million'],
        [
          ['database', kb(database), gbAMillion(database)],
          ['WAL', kb(wal), gbAMillion(wal)],
          ['of that, whole pages after a checkpoint, at most', kb(images), gbAMillion(images)],
        ],
      ),
      '',
      table(
        ['process', 'highest memory, MB'],
        memory.map(({ process, mb }) => [process, mb]),
      ),
      '',
      table(
        ['largest tables, indexes included', 'MB', 'kB a message'],
        tables.map(({ name, mb }) => [name, mb, (mb * 1e3) / mails]),
      ),
      '',
      `The database had ${readable(before.databaseBytes / 1e6)} MB before the first message.`,
    ].join('\n'),
  }
}
