import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Client } from 'pg'
import { type Relay, startRelay, startThrottlingApi, type ThrottlingApi } from './stand-ins.ts'

const READY_MS = 60_000

/** A Sluice of its own with a fresh database, and the providers it sends through. */
export type Shop = {
  readonly url: string
  readonly key: string
  readonly databaseUrl: string
  readonly api: ThrottlingApi
  readonly relay: Relay
  readonly oldRelay: Relay
  /** As the shop's own software would call it; throws a Refusal when the answer is no success. */
  call(method: string, path: string, body?: unknown): Promise<unknown>
  sql<Row>(statement: string, parameters?: readonly unknown[]): Promise<Row[]>
  close(): Promise<void>
}

export class Refusal extends Error {
  readonly status: number
  constructor(message: string, status: number) {
    super(message)
    this.name = 'Refusal'
    this.status = status
  }
}

export async function openShop(port: number, apiMailsPerSecond: number): Promise<Shop> {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-demo-'))
  // A server started by root runs as another user, who has to pass through.
  await chmod(dir, 0o711)
  const api = await startThrottlingApi(apiMailsPerSecond)
  const [relay, oldRelay] = [await startRelay(), await startRelay()]
  const key = `demo-${crypto.randomUUID()}`
  const service = startService(dir, {
    PORT: String(port),
    SLUICE_API_KEY: key,
    SMTP_URL: `smtp://127.0.0.1:${relay.port}`,
    OLD_RELAY_URL: `smtp://127.0.0.1:${oldRelay.port}`,
    API_CREDENTIALS: 'demo',
  })
  const { url, databaseUrl } = await greetingOf(service)
  const client = new Client({ connectionString: databaseUrl })
  await client.connect()
  return {
    url,
    key,
    databaseUrl,
    api,
    relay,
    oldRelay,
    call: (method, path, body) => call(`${url}${path}`, method, key, body),
    sql: async (statement, parameters = []) => (await client.query(statement, [...parameters])).rows,
    close: async () => {
      await client.end()
      service.kill('SIGTERM')
      await once(service, 'exit')
      await Promise.all([api, relay, oldRelay].map((each) => each.close()))
      await rm(dir, { recursive: true, force: true })
    },
  }
}

function startService(dataDir: string, environment: Readonly<Record<string, string>>): ChildProcess {
  return spawn(process.execPath, [fileURLToPath(new URL('../../src/main.js', import.meta.url))], {
    env: { PATH: process.env.PATH, LOG_LEVEL: 'error', SLUICE_DATA_DIR: dataDir, ...environment },
    stdio: ['ignore', 'inherit', 'pipe'],
  })
}

/** What `npm start` tells a person: where it listens and where its database is. */
async function greetingOf(service: ChildProcess): Promise<{ url: string; databaseUrl: string }> {
  let said = ''
  service.stderr?.setEncoding('utf8').on('data', (chunk: string) => {
    said += chunk
  })
  const giveUpAt = Date.now() + READY_MS
  while (Date.now() < giveUpAt && service.exitCode === null) {
    const url = /listens on (\S+)/.exec(said)?.[1]
    const databaseUrl = /psql '([^']+)'/.exec(said)?.[1]
    if (url !== undefined && databaseUrl !== undefined) return { url, databaseUrl }
    await delay(50)
  }
  service.kill('SIGKILL')
  throw new Error(`Sluice did not start:\n${said}`)
}

async function call(url: string, method: string, key: string, body: unknown): Promise<unknown> {
  const response = await fetch(url, {
    method,
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  })
  const answer = await response.json()
  if (!response.ok) throw new Refusal(`${method} ${url}: ${JSON.stringify(answer)}`, response.status)
  return answer
}
