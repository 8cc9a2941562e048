import { type ChildProcess, spawn } from 'node:child_process'
import { globSync } from 'node:fs'
import { chmod, mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { Client, escapeIdentifier } from 'pg'
import { startEmbeddedPostgres } from '../src/db/embedded.ts'
import { stopServerIn, withDatabase } from '../test/support/database.ts'

const HELP = `Usage: npm run test:suite -- [options] [files]

Runs the given test files (default: test/**/*.test.ts) against a real Postgres.

  --postgres <dir>  use initdb and postgres from this directory instead of the embedded ones,
                    such as /usr/lib/postgresql/15/bin
  --keep            leave the server running when tests fail, to look into the databases they kept
  --help            show this text

DATABASE_URL, when set, is a server (15 or newer) to use instead of starting one; its user must be
allowed to create databases. The exit code is that of the tests.`

const CONCURRENCY = 2
const COMPILE_CACHE = resolve(import.meta.dirname, '../node_modules/.cache/compiled')
/** Nothing here needs to survive a power cut; servers that prove durability are started by the tests themselves. */
const FAST_SETTINGS = { fsync: 'off', synchronous_commit: 'off', full_page_writes: 'off' }

const log = {
  info: () => undefined,
  warn: (details: object, message: string) => console.error(message, details),
}

type Server = { readonly url: string; readonly dataDir?: string; stop(): Promise<void> }

process.exitCode = await main()

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      postgres: { type: 'string' },
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
  return runSuite({
    files: positionals.length > 0 ? positionals : globSync('test/**/*.test.ts').sort(),
    binDir: values.postgres === undefined ? undefined : resolve(values.postgres),
    keepsAfterFailure: values.keep,
    interruption: interruption.signal,
  })
}

type Suite = {
  readonly files: string[]
  readonly binDir: string | undefined
  readonly keepsAfterFailure: boolean
  readonly interruption: AbortSignal
}

async function runSuite(suite: Suite): Promise<number> {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-test-'))
  // A server started by root runs as another user, who has to pass through.
  await chmod(dir, 0o711)
  const template = `sluice_template_${process.pid}`
  let server: Server | undefined
  let exitCode = 1
  try {
    server = await findServer(suite, dir)
    await createTemplate(server.url, template)
    if (!suite.interruption.aborted) exitCode = await runTests(suite, server.url, template, dir)
    return exitCode
  } finally {
    const isKept = suite.keepsAfterFailure && exitCode !== 0 && !suite.interruption.aborted && server?.dataDir
    if (isKept) console.log(`The server is kept: ${server?.url}\nIts data: ${server?.dataDir}`)
    else await cleanUp(server, template, dir)
  }
}

async function findServer(suite: Suite, dir: string): Promise<Server> {
  const url = process.env.DATABASE_URL
  if (url) return { url, stop: async () => undefined }
  return startEmbeddedPostgres({
    dataDir: join(dir, 'suite'),
    port: 0,
    log,
    settings: FAST_SETTINGS,
    ...(suite.binDir ? { binDir: suite.binDir } : {}),
  })
}

async function createTemplate(adminUrl: string, template: string): Promise<void> {
  await execute(adminUrl, `create database ${escapeIdentifier(template)}`)
  const { migrate } = await import('../src/db/migrate.ts')
  await migrate({ url: withDatabase(adminUrl, template), log })
}

async function runTests(suite: Suite, url: string, template: string, dir: string): Promise<number> {
  const child = spawn(
    process.execPath,
    ['--test', '--test-reporter=spec', `--test-concurrency=${CONCURRENCY}`, ...suite.files],
    { stdio: 'inherit', env: testEnvironment(suite, url, template, dir) },
  )
  // The runner passes it on to the test files it has started.
  suite.interruption.addEventListener('abort', () => child.kill('SIGTERM'))
  return exitCodeOf(child)
}

/** A test sets what it needs: nothing of the developer's own configuration may reach it. */
function testEnvironment(suite: Suite, url: string, template: string, dir: string): NodeJS.ProcessEnv {
  const inherited = Object.entries(process.env).filter(
    ([name]) => !name.startsWith('SLUICE_') && name !== 'DATABASE_URL' && name !== 'SMTP_URL',
  )
  return {
    ...Object.fromEntries(inherited),
    SLUICE_TEST_URL: url,
    SLUICE_TEST_TEMPLATE: template,
    SLUICE_TEST_DIR: dir,
    // Each file is a process: without it, most of their time goes into reading the same sources again.
    NODE_COMPILE_CACHE: COMPILE_CACHE,
    ...(suite.binDir ? { SLUICE_TEST_BIN_DIR: suite.binDir } : {}),
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
