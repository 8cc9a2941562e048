import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { globSync } from 'node:fs'
import { chmod, mkdtemp, readdir, rm, statfs } from 'node:fs/promises'
import { availableParallelism, tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs, promisify } from 'node:util'
import { Client, escapeIdentifier } from 'pg'
import { startEmbeddedPostgres } from '../src/db/embedded.ts'
import { stopServerIn, withDatabase } from '../test/support/database.ts'
import { filesThatReachPostgres } from './test-files.ts'

const HELP = `Usage: npm run test:suite -- [options] [files]

Runs the given test files (default: test/**/*.test.ts) against a real Postgres.

  --postgres <dir>  use initdb and postgres from this directory instead of the embedded ones,
                    such as /usr/lib/postgresql/15/bin
  --postgres-only   leave out the files that talk to no Postgres, found by what they import, and the failure
                    runs that are the same on every one: for a second run on another version
  --slowest <n>     print the slowest n tests at the end
  --keep            leave the server running when tests fail, to look into the databases they kept
  --help            show this text

DATABASE_URL, when set, is a server (15 or newer) to use instead of starting one; its user must be
allowed to create databases. The exit code is that of the tests.`

/** One more than there are processors: a test waits for a good part of its time. */
const CONCURRENCY = availableParallelism() + 1
const SLOWEST_REPORTER = resolve(import.meta.dirname, 'slowest-tests.ts')
const COMPILE_CACHE = resolve(import.meta.dirname, '../node_modules/.cache/compiled')
/** Nothing here needs to survive a power cut; servers that prove durability are started by the tests themselves. */
const FAST_SETTINGS = { fsync: 'off', synchronous_commit: 'off', full_page_writes: 'off' }

const log = {
  info: () => undefined,
  warn: (details: object, message: string) => console.error(message, details),
}

/** Several times what the whole suite has been seen to hold at once. */
const LEAST_MEMORY_BYTES = 8 * 2 ** 30

type Server = {
  readonly url: string
  readonly dataDir?: string
  readonly seed?: string
  stop(): Promise<void>
}

process.exitCode = await main()

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      postgres: { type: 'string' },
      'postgres-only': { type: 'boolean', default: false },
      slowest: { type: 'string' },
      keep: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  })
  if (values.help) {
    console.log(HELP)
    return 0
  }
  const interruption = new AbortController()
  // Handled by hand, so that the server is stopped before this process is.
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.on(name, () => interruption.abort())
  const files = positionals.length > 0 ? positionals : globSync('test/**/*.test.ts').sort()
  return runSuite({
    files: values['postgres-only'] ? filesThatReachPostgres(files) : files,
    isOfPostgresOnly: values['postgres-only'],
    slowest: values.slowest,
    binDir: values.postgres === undefined ? undefined : resolve(values.postgres),
    keepsAfterFailure: values.keep,
    interruption: interruption.signal,
  })
}

type Suite = {
  readonly files: readonly string[]
  /** A second run, on another version: what does not depend on it is left out. */
  readonly isOfPostgresOnly: boolean
  readonly slowest: string | undefined
  readonly binDir: string | undefined
  readonly keepsAfterFailure: boolean
  readonly interruption: AbortSignal
}

async function runSuite(suite: Suite): Promise<number> {
  const dir = await mkdtemp(join(await fastestPlace(), 'sluice-test-'))
  // A server started by root runs as another user, who has to pass through.
  await chmod(dir, 0o711)
  const template = `sluice_template_${process.pid}`
  let server: Server | undefined
  let exitCode = 1
  try {
    server = await findServer(suite, dir)
    await createTemplate(server.url, template)
    if (!suite.interruption.aborted) exitCode = await runTests(suite, server, template, dir)
    return exitCode
  } finally {
    const isKept = suite.keepsAfterFailure && exitCode !== 0 && !suite.interruption.aborted && server?.dataDir
    if (isKept) console.log(`The server is kept: ${server?.url}\nIts data: ${server?.dataDir}`)
    else await cleanUp(server, template, dir)
  }
}

/** In memory where there is plenty: most of what a cloned database costs is making and removing its 800 small files. */
async function fastestPlace(): Promise<string> {
  const memory = '/dev/shm'
  const isAsked = process.env.TMPDIR !== undefined
  const free = await statfs(memory).then(
    ({ bavail, bsize }) => bavail * bsize,
    // Not Linux, or a container without it.
    () => 0,
  )
  return !isAsked && free >= LEAST_MEMORY_BYTES ? memory : tmpdir()
}

async function findServer(suite: Suite, dir: string): Promise<Server> {
  const url = process.env.DATABASE_URL
  if (url) return { url, stop: async () => undefined }
  const seed = join(dir, 'seed')
  const options = { port: 0, log, settings: FAST_SETTINGS, ...(suite.binDir ? { binDir: suite.binDir } : {}) }
  // Made once and copied: by the servers that tests start as well.
  const made = await startEmbeddedPostgres({ ...options, dataDir: seed })
  await made.stop()
  await promisify(execFile)('cp', ['-a', seed, join(dir, 'suite')])
  return { ...(await startEmbeddedPostgres({ ...options, dataDir: join(dir, 'suite') })), seed }
}

async function createTemplate(adminUrl: string, template: string): Promise<void> {
  await execute(adminUrl, `create database ${escapeIdentifier(template)}`)
  const { migrate } = await import('../src/db/migrate.ts')
  await migrate({ url: withDatabase(adminUrl, template), log })
}

async function runTests(suite: Suite, server: Server, template: string, dir: string): Promise<number> {
  const reporters = suite.slowest === undefined ? ['spec'] : ['spec', SLOWEST_REPORTER]
  const child = spawn(
    process.execPath,
    [
      '--test',
      `--test-concurrency=${CONCURRENCY}`,
      ...reporters.flatMap((name) => [`--test-reporter=${name}`, '--test-reporter-destination=stdout']),
      ...suite.files,
    ],
    { stdio: 'inherit', env: testEnvironment(suite, server, template, dir) },
  )
  // The runner passes it on to the test files it has started.
  suite.interruption.addEventListener('abort', () => child.kill('SIGTERM'))
  return exitCodeOf(child)
}

/** A test sets what it needs: nothing of the developer's own configuration may reach it. */
function testEnvironment(suite: Suite, server: Server, template: string, dir: string): NodeJS.ProcessEnv {
  const inherited = Object.entries(process.env).filter(
    ([name]) => !name.startsWith('SLUICE_') && name !== 'DATABASE_URL' && name !== 'SMTP_URL',
  )
  return {
    ...Object.fromEntries(inherited),
    SLUICE_TEST_URL: server.url,
    SLUICE_TEST_TEMPLATE: template,
    SLUICE_TEST_DIR: dir,
    // Each file is a process: without it, most of their time goes into reading the same sources again.
    NODE_COMPILE_CACHE: COMPILE_CACHE,
    ...(server.seed ? { SLUICE_TEST_SEED: server.seed } : {}),
    ...(suite.binDir ? { SLUICE_TEST_BIN_DIR: suite.binDir } : {}),
    ...(suite.isOfPostgresOnly ? { SLUICE_TEST_POSTGRES_ONLY: '1' } : {}),
    ...(suite.slowest ? { SLUICE_TEST_SLOWEST: suite.slowest } : {}),
  }
}

function exitCodeOf(child: ChildProcess): Promise<number> {
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('exit', (code) => resolve(code ?? 1))
  })
}

/** Also stops the servers of test files that crashed: without their data they could not even shut down. */
async function cleanUp(server: Server | undefined, template: string, dir: string): Promise<void> {
  const leftBehind = (await readdir(dir))
    .map((name) => join(dir, name))
    .filter((path) => path !== server?.dataDir)
  for (const dataDir of leftBehind) await stopServerIn(dataDir)
  if (server?.dataDir === undefined) {
    if (server)
      await execute(server.url, `drop database if exists ${escapeIdentifier(template)} with (force)`)
  } else {
    await server.stop()
    await rm(server.dataDir, { recursive: true, force: true })
  }
  await rm(dir, { recursive: true, force: true })
}

async function execute(url: string, statement: string): Promise<void> {
  const client = new Client({ connectionString: url })
  await client.connect()
  try {
    await client.query(statement)
  } finally {
    await client.end()
  }
}
