import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { readConfig } from '../../src/config.ts'
import { migrate } from '../../src/db/migrate.ts'
import { createLog } from '../../src/log.ts'
import { type Service, startService } from '../../src/service.ts'
import type { TestDatabase } from './database.ts'
import type { Scope } from './scope.ts'

export const TEST_KEY = 'test-key-0123456789abcdef'

type Environment = Readonly<Record<string, string>>

function environmentOf(url: string, extra: Environment): Environment {
  return { DATABASE_URL: url, PORT: '0', SLUICE_API_KEY: TEST_KEY, LOG_LEVEL: 'silent', ...extra }
}

export type TestService = Service & {
  /** A request with the test key; a body is sent as JSON. */
  request(
    path: string,
    options?: { body?: unknown; headers?: Environment; method?: string },
  ): Promise<Response>
}

/** A whole service inside the test's process, over a database of createTestDatabase; stopped before that is dropped. */
export async function startTestService(
  database: TestDatabase,
  extra: Environment = {},
  { migratePatienceMs }: { migratePatienceMs?: number } = {},
): Promise<TestService> {
  const config = readConfig(environmentOf(database.url, extra))
  const log = createLog(config.logLevel)
  const { serviceRole } = await migrate({
    url: config.sessionDatabaseUrl ?? database.url,
    log,
    ...(migratePatienceMs !== undefined && { patienceMs: migratePatienceMs }),
  })
  const service = await startService({ config, log, databaseUrl: database.url, serviceRole })
  database.beforeDrop(() => service.stop())
  return { ...service, request: (path, options) => request(service.url ?? '', path, options) }
}

export type SpawnedService = {
  readonly process: ChildProcess
  readonly pid: number
  readonly url: string
  /** Resolves with the first log line that has this text, past or to come. */
  logged(text: string): Promise<Readonly<Record<string, unknown>>>
  request: TestService['request']
  /** All that it wrote so far, to standard output and standard error. */
  output(): string
  /** Resolves with the exit code, or null when a signal ended it. */
  readonly ended: Promise<number | null>
}

/** How a process is started. */
export type Launch = {
  /** What runs Node, such as `ip netns exec there`. */
  readonly prefix?: readonly string[]
  /** For Node itself, such as a module to load first. */
  readonly nodeOptions?: readonly string[]
}

/** A service as a process of its own, to be killed; killed for certain when the test ends. `prefix` is a command that becomes it. */
export async function spawnService(
  t: Scope,
  databaseUrl: string,
  extra: Environment = {},
  { prefix = [], nodeOptions = [] }: Launch = {},
): Promise<SpawnedService> {
  const main = fileURLToPath(new URL('../../src/main.js', import.meta.url))
  const [command = '', ...rest] = [...prefix, process.execPath, ...nodeOptions, main]
  const child = spawn(command, rest, {
    env: {
      PATH: process.env.PATH,
      NODE_COMPILE_CACHE: process.env.NODE_COMPILE_CACHE,
      ...environmentOf(databaseUrl, { LOG_LEVEL: 'debug', ...extra }),
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const ended = once(child, 'exit').then(([code]) => code as number | null)
  t.after(async () => {
    child.kill('SIGKILL')
    await ended
  })
  let output = ''
  const lines: Record<string, unknown>[] = []
  const waiting: { text: string; resolve: (line: Record<string, unknown>) => void }[] = []
  createInterface({ input: child.stdout }).on('line', (text) => {
    output += `${text}\n`
    const line = JSON.parse(text) as Record<string, unknown>
    lines.push(line)
    for (const waiter of waiting) if (waiter.text === line.msg) waiter.resolve(line)
  })
  let errors = ''
  child.stderr.on('data', (chunk) => {
    errors += chunk
  })
  const logged = (text: string) =>
    new Promise<Record<string, unknown>>((resolve) => {
      const found = lines.find((line) => line.msg === text)
      if (found === undefined) waiting.push({ text, resolve })
      else resolve(found)
    })
  const isApi = (extra.SLUICE_ROLES ?? 'api,worker').includes('api')
  const ready = await Promise.race([logged(isApi ? 'listening' : 'worker registered'), ended])
  if (ready === null || typeof ready === 'number') {
    throw new Error(`the service ended with ${ready} before it was ready:\n${errors}`)
  }
  const url = String(ready.url ?? '')
  return {
    process: child,
    pid: child.pid ?? 0,
    url,
    logged,
    output: () => output + errors,
    ended,
    request: (path, options) => request(url, path, options),
  }
}

function request(
  base: string,
  path: string,
  options: Parameters<TestService['request']>[1] = {},
): Promise<Response> {
  const { body, headers = {}, method = body === undefined ? 'GET' : 'POST' } = options
  return fetch(new URL(path, base), {
    method,
    headers: { Authorization: `Bearer ${TEST_KEY}`, 'Content-Type': 'application/json', ...headers },
    ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
  })
}

/** An order confirmation as an app would send it. */
export function orderMail(changes: Readonly<Record<string, unknown>> = {}): Record<string, unknown> {
  return {
    from: 'Shop <shop@example.com>',
    to: ['ann@example.net'],
    subject: 'Your order',
    html: '<p>Thank you.</p>',
    text: 'Thank you.',
    ...changes,
  }
}
