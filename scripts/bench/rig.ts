import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { Client, escapeIdentifier } from 'pg'
import { startEmbeddedPostgres } from '../../src/db/embedded.ts'
import { findPostmaster } from '../../src/db/embedded-postmaster.ts'
import { NODE_OPTIONS } from './child.ts'
import type { Watched } from './cpu.ts'
import { Guard } from './guard.ts'
import { highestMemoryMb } from './memory.ts'
import { HTML, SUBJECT, TEMPLATE_NAME, TEXT } from './order.ts'

export const API_KEY = 'benchmark-key-0123456789'

/** What all benchmarks of one run share: one Postgres with the durability that users get, and a guard. */
export type Rig = {
  readonly guard: Guard
  readonly postgres: Watched
  readonly dir: string
  /** A database of its own for each benchmark, so that none meets another's leftovers. */
  createDatabase(name: string): Promise<string>
  /** Of each Sluice process as it is stopped: the most memory that it ever held. */
  noteMemory(mb: number, roles: string): void
  /** The highest noted since this was asked before. */
  takeHighestMemory(): { readonly mb: number; readonly roles: string }
  close(): Promise<void>
}

const NOTHING = { mb: Number.NaN, roles: '' }

export async function openRig(): Promise<Rig> {
  const guard = new Guard()
  const dir = await mkdtemp(join(tmpdir(), 'sluice-bench-'))
  // A server started by root runs as another user, who has to pass through.
  await chmod(dir, 0o711)
  guard.watchData(dir)
  const log = {
    info: () => undefined,
    warn: (details: object, message: string) => console.error(message, details),
  }
  const server = await startEmbeddedPostgres({ dataDir: dir, dataDirIsExplicit: true, port: 0, log })
  const pid = findPostmaster(join(server.dataDir, 'cluster'))?.pid
  if (pid === undefined) throw new Error('the Postgres of the benchmark ended as soon as it had started')
  let highest = NOTHING
  return {
    guard,
    dir,
    noteMemory: (mb, roles) => {
      if (!(mb <= highest.mb)) highest = { mb, roles }
    },
    takeHighestMemory: () => {
      const taken = highest
      highest = NOTHING
      return taken
    },
    postgres: { name: 'postgres', pid, family: true },
    createDatabase: async (name) => {
      const url = new URL(server.url)
      await withClient(url.href, (client) => client.query(`create database ${escapeIdentifier(name)}`))
      url.pathname = `/${name}`
      return url.href
    },
    close: async () => {
      await server.stop()
      await rm(dir, { recursive: true, force: true })
    },
  }
}

/** A directory that goes with the rig. */
export function makeDirectory({ dir }: Rig): Promise<string> {
  return mkdtemp(join(dir, 'own-'))
}

export async function withClient<T>(url: string, work: (client: Client) => Promise<T>): Promise<T> {
  const client = new Client({ connectionString: url })
  await client.connect()
  try {
    return await work(client)
  } finally {
    await client.end()
  }
}

/** The URL of a user who may append and read nothing, as an application's should be. Roles are the whole server's. */
export async function enqueueUrlOf(databaseUrl: string): Promise<string> {
  await withClient(databaseUrl, async (client) => {
    const { rowCount } = await client.query("select from pg_roles where rolname = 'shop'")
    if (rowCount === 0) await client.query("create role shop login password 'shop' in role mail_enqueue")
  })
  const url = new URL(databaseUrl)
  url.username = 'shop'
  url.password = 'shop'
  return url.href
}

export type ServiceOptions = {
  readonly databaseUrl: string
  readonly smtpUrl: string
  readonly roles: 'api' | 'worker' | 'api,worker'
  /** Where to write a CPU profile of the process when it stops. */
  readonly profileDir: string | undefined
  readonly environment?: Readonly<Record<string, string>>
}

export type BenchService = {
  readonly url: string
  readonly watched: Watched
  stop(): Promise<void>
}

/** Sluice as users run it: a process of its own, started by its command line. */
export async function startService(rig: Rig, options: ServiceOptions): Promise<BenchService> {
  const profiling =
    options.profileDir === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${options.profileDir}`]
  const main = fileURLToPath(new URL('../../src/main.js', import.meta.url))
  const child = spawn(process.execPath, [...NODE_OPTIONS, ...profiling, main], {
    env: {
      PATH: process.env.PATH,
      DATABASE_URL: options.databaseUrl,
      SMTP_URL: options.smtpUrl,
      SLUICE_API_KEY: API_KEY,
      SLUICE_ROLES: options.roles,
      PORT: '0',
      ...options.environment,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  rig.guard.watch(child)
  const ready = await firstLine(child, options.roles === 'worker' ? 'worker registered' : 'listening')
  return {
    url: String(ready.url ?? ''),
    watched: { name: 'sluice', pid: child.pid ?? 0 },
    stop: async () => {
      rig.noteMemory(highestMemoryMb(child.pid ?? 0), options.roles)
      const ended = once(child, 'exit')
      child.kill('SIGTERM')
      await ended
    },
  }
}

/** Resolves with the first log line that has this message; shows warnings, and rejects when the process ends first. */
function firstLine(child: ChildProcess, text: string): Promise<Readonly<Record<string, unknown>>> {
  const found = Promise.withResolvers<Readonly<Record<string, unknown>>>()
  let said = ''
  child.stderr?.on('data', (chunk) => {
    said = `${said}${chunk}`.slice(-2_000)
  })
  if (child.stdout === null) throw new Error('the output of the service is not a pipe')
  createInterface({ input: child.stdout }).on('line', (json) => {
    const line = JSON.parse(json) as Record<string, unknown>
    if (line.msg === text) found.resolve(line)
    if (line.level === 'warn' || line.level === 'error') console.error(`sluice: ${json}`)
  })
  child.once('exit', (code) => found.reject(new Error(`Sluice ended with ${code}:\n${said}`)))
  return found.promise
}

const ORDER_TEMPLATE = { name: TEMPLATE_NAME, subject: SUBJECT, html: HTML, text: TEXT }

/** Publishes a template through the API: that of the orders unless another is given. */
export async function publishTemplate(url: string, template = ORDER_TEMPLATE): Promise<void> {
  await post(`${url}/templates`, template)
  await post(`${url}/templates/${template.name}/publish`, {})
}

async function post(url: string, body: object): Promise<void> {
  const answer = await fetch(url, {
    method: 'POST',
    headers: { Authorization: `Bearer ${API_KEY}`, 'Content-Type': 'application/json' },
    body: JSON.stringify(body),
  })
  if (!answer.ok) throw new Error(`POST ${url} answered ${answer.status}: ${await answer.text()}`)
  await answer.arrayBuffer()
}
