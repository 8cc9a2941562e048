import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { fileURLToPath } from 'node:url'
import { Client } from 'pg'
import type { CrashPoint } from '../../../src/crash-point.ts'
import { migrate } from '../../../src/db/migrate.ts'
import { createLog } from '../../../src/log.ts'
import { type TestDatabase, withDatabase } from '../../../test/support/database.ts'
import { type StandIn, startStandIn } from '../../../test/support/provider-stand-ins.ts'
import { type SpawnedService, startTestService, type TestService } from '../../../test/support/service.ts'
import { startWebhookReceiver, type WebhookReceiver } from '../../../test/support/webhook-receiver.ts'
import type { Scene } from '../run.ts'
import { startRecordingSink } from '../sink.ts'
import { spawnSluice, startPostgres } from '../sluice.ts'

type Environment = Readonly<Record<string, string>>
const SEED = 'crash_seed'
const MOST_STARTS = 5

/** What all cases share: a server with a migrated database to copy, and the other ends of every connection. */
export type Theatre = {
  readonly scene: Scene
  readonly serverUrl: string
  readonly smtpUrl: string
  readonly provider: StandIn
  readonly endpoint: WebhookReceiver
  /** A host of files, for attachments by URL. */
  readonly fileUrl: string
  /** How often the sink took a mail for this recipient. */
  copiesOf(recipient: string): number
  /** Runs one statement on the server; databases are copied one at a time. */
  onServer(statement: string): Promise<unknown>
}

export async function openTheatre(scene: Scene): Promise<Theatre> {
  const server = await startPostgres(scene, { max_connections: '400', fsync: 'off' })
  const serverUrl = server.url
  await server.query(`create database ${SEED}`)
  await migrate({ url: withDatabase(serverUrl, SEED), log: createLog('silent') })
  const copies = new Map<string, number>()
  const sink = await startRecordingSink(scene, {
    onMail: (recipients) => {
      for (const each of recipients) copies.set(each, (copies.get(each) ?? 0) + 1)
    },
  })
  let last: Promise<unknown> = Promise.resolve()
  return {
    scene,
    serverUrl,
    smtpUrl: sink.url,
    provider: await startStandIn(scene, 'postmark'),
    endpoint: await startWebhookReceiver(scene),
    fileUrl: await startFileHost(scene),
    copiesOf: (recipient) => copies.get(recipient) ?? 0,
    onServer: (statement) => {
      last = last.then(() => server.query(statement))
      return last
    },
  }
}

async function startFileHost(scene: Scene): Promise<string> {
  const server = createServer((_, response) => response.writeHead(200).end('A receipt.'))
  await once(server.listen(0, '127.0.0.1'), 'listening')
  scene.after(() => {
    server.closeAllConnections()
    server.close()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}/receipt.txt`
}

/** One case: a database of its own, a process that dies in it, and one that goes on. */
export type Stage = {
  readonly theatre: Theatre
  readonly database: TestDatabase
  /** A recipient of this case alone. */
  readonly recipient: string
  /** Undefined when it died before it was ready. */
  spawnDoomed(point: CrashPoint, extra?: Environment): Promise<SpawnedService | undefined>
  /** The process that is left, inside this one. */
  startSurvivor(extra?: Environment): Promise<TestService>
}

let made = 0

/** Performs a case on a stage of its own, and takes the stage down. */
export async function onStage<Result>(
  theatre: Theatre,
  isEmpty: boolean,
  perform: (stage: Stage) => Promise<Result>,
): Promise<Result> {
  made += 1
  const number = made
  const name = `crash_${number}`
  await theatre.onServer(
    `create database ${name} template ${isEmpty ? 'template0' : `${SEED} strategy file_copy`}`,
  )
  const url = withDatabase(theatre.serverUrl, name)
  const client = new Client({ connectionString: url })
  await client.connect()
  const closers: (() => Promise<unknown>)[] = [() => client.end()]
  const database: TestDatabase = {
    url,
    query: async (text, values) => (await client.query(text, values)).rows,
    beforeDrop: (close) => closers.push(close),
  }
  const environmentOf = (extra: Environment) => ({
    SMTP_URL: theatre.smtpUrl,
    SLUICE_WEBHOOK_HOSTS: theatre.endpoint.host,
    SLUICE_ATTACHMENT_HOSTS: new URL(theatre.fileUrl).origin,
    ...extra,
  })
  try {
    return await perform({
      theatre,
      database,
      recipient: `user${number}@crash.example`,
      spawnDoomed: (point, extra = {}) =>
        supervised(async () => {
          const environment = environmentOf(extra)
          return spawnSluice(theatre.scene, url, environment, { nodeOptions: dieAt(point) }).catch(
            (error: Error) => {
              if (!error.message.includes('ended with null')) throw error
              return undefined
            },
          )
        }),
      startSurvivor: (extra = {}) => supervised(() => startTestService(database, environmentOf(extra))),
    })
  } finally {
    for (const close of closers.reverse()) await close()
    await theatre.onServer(`drop database ${name} with (force)`)
  }
}

/** As a supervisor has it: on a machine under load the first connection may take too long, and a process ends with 1. */
async function supervised<Started>(start: () => Promise<Started>): Promise<Started> {
  for (let starts = 1; ; starts += 1) {
    try {
      return await start()
    } catch (error) {
      if (starts === MOST_STARTS) throw error
    }
  }
}

/** `npm start -- migrate` that dies; resolves with the signal that ended it. */
export async function migrateUntil(point: CrashPoint, url: string): Promise<NodeJS.Signals | null> {
  const main = fileURLToPath(new URL('../../../src/main.js', import.meta.url))
  const child = spawn(process.execPath, [...dieAt(point), main, 'migrate'], {
    env: { PATH: process.env.PATH, DATABASE_URL: url, LOG_LEVEL: 'silent' },
    stdio: 'ignore',
  })
  const [, signal] = await once(child, 'exit')
  return signal as NodeJS.Signals | null
}

function dieAt(point: CrashPoint): string[] {
  const module = new URL('../die-at.ts', import.meta.url)
  module.searchParams.set('point', point)
  return ['--import', module.href]
}
