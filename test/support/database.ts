import { execFile } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { promisify } from 'node:util'
import { Client, escapeIdentifier, Pool, type QueryResultRow } from 'pg'
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../src/db/embedded.ts'
import { filesOf, readConnection, saveConnection } from '../../src/db/embedded-cluster.ts'
import {
  adoptPostmaster,
  choosePort,
  findPostmaster,
  requestShutdown,
} from '../../src/db/embedded-postmaster.ts'
import type { Scope } from './scope.ts'

export type TestDatabase = {
  /** A migrated database of this test alone, on the suite's server. */
  readonly url: string
  /**
   * Runs one statement as the server's administrator, beside all others: several at once are several connections. These
   * are kept, so what belongs to a session (`set`, `begin`, `listen`) needs a Client of its own.
   */
  query<Row extends QueryResultRow>(text: string, values?: unknown[]): Promise<Row[]>
  /**
   * Closes pools and the like before the database is dropped under them. Use this rather than `t.after`, which runs
   * its hooks first come, first served: the drop would come before them. The last one registered runs first.
   */
  beforeDrop(close: () => Promise<unknown>): void
}

/**
 * Clones the migrated template into a fresh database. Call it in a test, or once for a file in a top-level
 * `before((t) => …)`. The database is dropped after the test when that and its subtests passed, and kept otherwise.
 */
export async function createTestDatabase(t: TestContext): Promise<TestDatabase> {
  const adminUrl = fromSuite('SLUICE_TEST_URL')
  const name = `sluice_test_${randomUUID().replaceAll('-', '').slice(0, 16)}`
  const url = withDatabase(adminUrl, name)
  const { query, close } = openQueries(url)
  const closers: (() => Promise<unknown>)[] = [close]
  // A test's own `passed` is still true here when only a subtest failed.
  let hasFailedSubtest = false
  t.afterEach((subtest) => {
    if (!hasPassed(subtest)) hasFailedSubtest = true
  })
  await cloneTemplate(adminUrl, name)
  t.after(async () => {
    for (const close of closers.reverse()) await close()
    if (hasPassed(t) && !hasFailedSubtest)
      await execute(adminUrl, `drop database ${escapeIdentifier(name)} with (force)`)
    else t.diagnostic(`the database of this failed test is kept: ${url}`)
  })
  return { url, query, beforeDrop: (close) => closers.push(close) }
}

/** A copy of all that is in it, beside it; dropped with the original. Whoever is connected to the original is cut off. */
export async function copyTestDatabase(original: TestDatabase): Promise<Pick<TestDatabase, 'url' | 'query'>> {
  const adminUrl = fromSuite('SLUICE_TEST_URL')
  const from = new URL(original.url).pathname.slice(1)
  const name = `${from}_copy`
  await execute(adminUrl, `select pg_terminate_backend(pid) from pg_stat_activity where datname = '${from}'`)
  await execute(adminUrl, `create database ${escapeIdentifier(name)} template ${escapeIdentifier(from)}`)
  const url = withDatabase(adminUrl, name)
  const { query, close } = openQueries(url)
  original.beforeDrop(async () => {
    await close()
    await execute(adminUrl, `drop database ${escapeIdentifier(name)} with (force)`)
  })
  return { url, query }
}

/** Kept connections: a new one costs both sides more than most tests' statements, and tests look many times a second. */
function openQueries(url: string): { query: TestDatabase['query']; close: () => Promise<void> } {
  const pool = new Pool({ connectionString: url, max: 20, allowExitOnIdle: true })
  // An idle connection that a test has the server end; the next query opens another.
  pool.on('error', () => undefined)
  return {
    query: async <Row extends QueryResultRow>(text: string, values?: unknown[]) =>
      (await pool.query<Row>(text, values)).rows,
    close: () => pool.end(),
  }
}

/**
 * A server of this test's own, to be killed and restarted at will: the suite's binaries, durable settings, in a
 * temporary directory that is removed afterwards.
 */
export async function startTestPostgres(
  t: Scope,
  settings: Record<string, string> = {},
): Promise<{ readonly url: string; readonly dataDir: string; postmasterPid(): number }> {
  return startTestPostgresIn(t, await makeClusterDirectory(t), { settings })
}

/** The same in a directory of `makeTestDirectory`, with whatever is in it. */
export async function startTestPostgresIn(
  t: Scope,
  dataDir: string,
  options: { readonly settings?: Record<string, string>; readonly binDir?: string } = {},
): ReturnType<typeof startTestPostgres> {
  const server = await startTestServer(t, { dataDir, ...options })
  const cluster = join(server.dataDir, 'cluster')
  return {
    url: server.url,
    dataDir: server.dataDir,
    postmasterPid: () => {
      const running = findPostmaster(cluster)
      if (!running) throw new Error(`no server runs in ${cluster} at this moment`)
      return running.pid
    },
  }
}

/** Starts an embedded server with the suite's binaries in a directory of `makeTestDirectory`, which stops it. */
export async function startTestServer(
  t: Scope,
  options: Partial<Parameters<typeof startEmbeddedPostgres>[0]> & { dataDir: string },
): Promise<EmbeddedPostgres> {
  const binDir = process.env.SLUICE_TEST_BIN_DIR
  const log = {
    info: () => undefined,
    warn: (details: object, message: string) => t.diagnostic(`${message} ${JSON.stringify(details)}`),
  }
  const server = await startEmbeddedPostgres({ log, port: 0, ...(binDir ? { binDir } : {}), ...options })
  beforeRemoval(options.dataDir, () => server.stop())
  return server
}

const closersOf = new Map<string, (() => Promise<unknown>)[]>()

/**
 * A data directory inside the suite's own, where the runner finds and stops what a crashed test file left running.
 * After the test everything in it is stopped, then it is removed.
 */
export async function makeTestDirectory(t: Scope): Promise<string> {
  const dataDir = await mkdtemp(join(process.env.SLUICE_TEST_DIR ?? tmpdir(), 'server-'))
  // A server started by root runs as another user, who has to pass through.
  await chmod(dataDir, 0o711)
  closersOf.set(dataDir, [])
  t.after(async () => {
    for (const close of closersOf.get(dataDir)?.reverse() ?? []) await close()
    await stopServerIn(dataDir)
    await rm(dataDir, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 })
  })
  return dataDir
}

/** The same with a cluster in it that no server runs on yet: for tests that are not about making one. */
export async function makeClusterDirectory(t: Scope): Promise<string> {
  const dataDir = await makeTestDirectory(t)
  await copySeed(dataDir)
  return dataDir
}

/** Does nothing outside the suite, where the server makes its cluster itself. */
export async function copySeed(dataDir: string): Promise<void> {
  const seed = process.env.SLUICE_TEST_SEED
  if (seed === undefined) return
  await promisify(execFile)('cp', ['-a', join(seed, 'cluster'), dataDir])
  const kept = await readConnection(filesOf(seed))
  if (kept) await saveConnection(filesOf(dataDir), { ...kept, port: await choosePort(0) })
}

/** What has to end before the directory goes; like `beforeDrop`, the last one registered runs first. */
export function beforeRemoval(dataDir: string, close: () => Promise<unknown>): void {
  closersOf.get(dataDir)?.push(close)
}

/** Stops a server that nobody owns any more: they are detached, so they outlive the process that started them. */
export async function stopServerIn(dataDir: string): Promise<void> {
  const running = findPostmaster(join(dataDir, 'cluster'))
  if (!running) return
  const postmaster = adoptPostmaster(running.pid)
  requestShutdown(postmaster)
  // Watching an adopted server does not keep a process alive by itself.
  const keepAlive = setInterval(() => undefined, 1000)
  await postmaster.ended
  clearInterval(keepAlive)
}

export function withDatabase(url: string, name: string): string {
  const changed = new URL(url)
  changed.pathname = `/${name}`
  return changed.href
}

/** Postgres refuses to clone a template that anybody is connected to, another clone included: one at a time. */
async function cloneTemplate(adminUrl: string, name: string): Promise<void> {
  const template = fromSuite('SLUICE_TEST_TEMPLATE')
  await connected(adminUrl, async (client) => {
    // Released with the connection.
    await client.query("select pg_advisory_lock(hashtextextended('sluice.test.template', 0))")
    // Files are copied rather than written to the WAL as well: a third of the cost.
    await client.query(
      `create database ${escapeIdentifier(name)} template ${escapeIdentifier(template)} strategy file_copy`,
    )
  })
}

function execute(url: string, statement: string): Promise<unknown> {
  return connected(url, (client) => client.query(statement))
}

async function connected<Result>(url: string, work: (client: Client) => Promise<Result>): Promise<Result> {
  const client = new Client({ connectionString: url })
  await client.connect()
  try {
    return await work(client)
  } finally {
    await client.end()
  }
}

function hasPassed(test: object): boolean {
  return 'passed' in test && test.passed === true
}

function fromSuite(name: 'SLUICE_TEST_URL' | 'SLUICE_TEST_TEMPLATE'): string {
  const value = process.env[name]
  if (value === undefined)
    throw new Error(`${name} is not set: run tests with "npm run test:suite -- <files>"`)
  return value
}
