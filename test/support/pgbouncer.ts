import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { Client } from 'pg'
import type { TestDatabase } from './database.ts'
import { eventually } from './eventually.ts'

const PROGRAM = '/usr/sbin/pgbouncer'
const ACCOUNT = 'nobody'

/** Why no PgBouncer can be started here; undefined when one can. */
export function pgbouncerObstacle(): string | undefined {
  return spawnSync(PROGRAM, ['--version']).status === 0 ? undefined : 'PgBouncer is not installed'
}

export type PgBouncer = {
  /** The database of the test, as `user`, through the pooler. */
  readonly url: string
  /** Ends it at once, as the OOM killer would. */
  kill(): Promise<void>
  /** Starts it again on the same port. */
  start(): Promise<void>
}

export type PgBouncerOptions = {
  /** The database itself, with the user and password that the pooler logs in as. */
  readonly url: string
  readonly mode?: 'transaction' | 'session'
  readonly poolSize?: number
}

/** A PgBouncer in front of one database, with a configuration and port of its own on loopback. Stops with the test. */
export async function startPgBouncer(t: TestContext, options: PgBouncerOptions): Promise<PgBouncer> {
  const directory = await mkdtemp(join(tmpdir(), 'sluice-pgbouncer-'))
  await chmod(directory, 0o755)
  const port = await freePort()
  const url = new URL(options.url)
  await writeFiles(directory, port, url, options)
  url.port = String(port)
  let running: ChildProcess | undefined
  const end = async (signal: NodeJS.Signals) => {
    if (running === undefined) return
    const ended = once(running, 'exit')
    running.kill(signal)
    await ended
    running = undefined
  }
  const start = async () => {
    const child = spawn(
      PROGRAM,
      ['-q', ...(process.getuid?.() === 0 ? ['-u', ACCOUNT] : []), 'pgbouncer.ini'],
      {
        cwd: directory,
        stdio: ['ignore', 'ignore', 'pipe'],
      },
    )
    let words = ''
    child.stderr?.on('data', (chunk) => {
      words += chunk
    })
    running = child
    await eventually('PgBouncer takes connections', async () => {
      if (child.exitCode !== null) throw new Error(`PgBouncer ended with ${child.exitCode}:\n${words}`)
      return answers(url.href)
    })
  }
  t.after(async () => {
    await end('SIGKILL')
    await rm(directory, { recursive: true, force: true })
  })
  await start()
  return { url: url.href, kill: () => end('SIGKILL'), start }
}

async function writeFiles(
  directory: string,
  port: number,
  url: URL,
  { mode = 'transaction', poolSize = 20 }: PgBouncerOptions,
): Promise<void> {
  const configuration = `[databases]
* = host=${url.hostname} port=${url.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = plain
auth_file = users.txt
pool_mode = ${mode}
default_pool_size = ${poolSize}
max_client_conn = 500
server_login_retry = 0.2
`
  const user = `"${decodeURIComponent(url.username)}" "${decodeURIComponent(url.password)}"\n`
  await writeFile(join(directory, 'pgbouncer.ini'), configuration, { mode: 0o644 })
  await writeFile(join(directory, 'users.txt'), user, { mode: 0o644 })
}

async function answers(url: string): Promise<boolean> {
  const client = new Client({ connectionString: url })
  try {
    await client.connect()
    await client.query('select 1')
    return true
  } catch {
    // Not listening yet.
    return false
  } finally {
    await client.end()
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  await new Promise((resolve) => server.close(resolve))
  return port
}

/**
 * A login that the documentation makes for a pooler: the rights of mail_service, and what Sluice sets on connections of
 * its own. Returns the database's URL with it. Dropped with the database.
 */
export async function createPooledUser(database: TestDatabase, settings = POOLED_SETTINGS): Promise<string> {
  const url = new URL(database.url)
  const name = url.pathname.slice(1)
  const user = `pooled_${name}`
  await database.query(`create role ${user} login password 'secret'`)
  await database.query(`grant mail_service to ${user}`)
  for (const [setting, value] of Object.entries(settings)) {
    await database.query(`alter role ${user} in database ${name} set ${setting} = '${value}'`)
  }
  database.beforeDrop(() => database.query(`drop role ${user}`))
  url.username = user
  url.password = 'secret'
  return url.href
}

const POOLED_SETTINGS: Readonly<Record<string, string>> = {
  synchronous_commit: 'on',
  statement_timeout: '25s',
  idle_in_transaction_session_timeout: '10s',
}
