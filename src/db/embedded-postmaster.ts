import { spawn } from 'node:child_process'
import {
  closeSync,
  constants,
  existsSync,
  fstatSync,
  ftruncateSync,
  openSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  writeSync,
} from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { Client } from 'pg'
import type { Account } from './embedded-account.ts'
import { CHILD_ENV } from './embedded-environment.ts'
import { codeOf, EmbeddedPostgresError } from './embedded-error.ts'
import { startOf } from './embedded-owner.ts'

const MAX_LOG_BYTES = 10 * 1024 * 1024
/** Never through a symbolic link: we may be root, in a directory that another user may write. */
const LOG_FLAGS = constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT | constants.O_NOFOLLOW
const PID_FILE_FLAGS = constants.O_WRONLY | constants.O_NOFOLLOW
const PROBE_EVERY_MS = 50
const PROBE_TIMEOUT_MS = 5_000
/** How soon the end of an adopted server, which is not our child, is noticed. */
const ADOPTED_POLL_MS = 250
/** Larger than any pid the kernel gives out (at most 2^22). */
const IMPOSSIBLE_PID = 2_147_483_647

/** The server's main process. `ended` resolves, with how it ended, as soon as it is gone; it never rejects. */
export type Postmaster = {
  /** Undefined when the program could not be started at all. */
  readonly pid: number | undefined
  readonly ended: Promise<string>
  /** Started by another process. */
  readonly isAdopted: boolean
}

/**
 * Starts a postmaster in a session of its own: a Ctrl-C in the terminal reaches this process only, which then stops
 * the server after its own work is done. It outlives this process; the next start adopts it.
 */
export function spawnPostmaster(options: {
  postgres: string
  cluster: string
  logFile: string
  port: number
  account: Account | undefined
  settings: Readonly<Record<string, string>>
}): Postmaster {
  disownStalePidFile(options.cluster)
  const settings = {
    listen_addresses: '127.0.0.1',
    ...options.settings,
    port: String(options.port),
    // A socket's path may have 107 bytes at most, which a data directory easily exceeds.
    unix_socket_directories: '',
    logging_collector: 'off',
  }
  const args = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`])
  const identity = options.account ? { uid: options.account.uid, gid: options.account.gid } : {}
  const log = openLog(options.logFile)
  try {
    const child = spawn(options.postgres, ['-D', options.cluster, ...args], {
      cwd: '/',
      env: CHILD_ENV,
      detached: true,
      stdio: ['ignore', log, log],
      ...identity,
    })
    child.unref()
    const ended = new Promise<string>((resolve) => {
      child.once('error', (error) => resolve(`not startable: ${codeOf(error)}`))
      child.once('exit', (code, signal) => resolve(signal ?? `exit code ${code}`))
    })
    return { pid: child.pid, ended, isAdopted: false }
  } finally {
    closeSync(log)
  }
}

/** Watches a server that another process, gone by now, has started. */
export function adoptPostmaster(pid: number): Postmaster {
  const startedAt = startOf(pid)
  const ended = new Promise<string>((resolve) => {
    const poll = setInterval(() => {
      if (startedAt !== undefined && startOf(pid) === startedAt) return
      clearInterval(poll)
      resolve('gone')
    }, ADOPTED_POLL_MS)
    poll.unref()
  })
  return { pid, ended, isAdopted: true }
}

/**
 * The live postmaster of a cluster, by its pid file. The pid alone proves nothing, as it may belong to another process
 * by now; a postmaster's working directory is its cluster.
 */
export function findPostmaster(cluster: string): { pid: number; port: number | undefined } | undefined {
  const lines = readPidFile(cluster)
  const pid = Number(lines?.[0])
  if (!(pid > 0) || startOf(pid) === undefined) return undefined
  if (existsSync('/proc/self/cwd') && workingDirectoryOf(pid) !== realpathSync(cluster)) return undefined
  const port = Number(lines?.[3])
  return { pid, port: port > 0 ? port : undefined }
}

/** Whether the cluster was not shut down properly (or is running). */
export function hasPidFile(cluster: string): boolean {
  return readPidFile(cluster) !== undefined
}

/** A fast shutdown: transactions are rolled back, everything is written, the next start needs no recovery. */
export function requestShutdown(postmaster: Postmaster): void {
  if (postmaster.pid === undefined) return
  try {
    process.kill(postmaster.pid, 'SIGINT')
  } catch (error) {
    if (codeOf(error) !== 'ESRCH') throw error
  }
}

/**
 * Waits until the server really takes connections: crash recovery may take minutes, and is not a failed start.
 * Throws `ended_before_ready`, `not_ready_in_time`, `cluster_unusable` (wrong password) or the signal's reason.
 */
export async function waitUntilReady(options: {
  url: string
  postmaster: Postmaster
  limitMs: number
  signal: AbortSignal
}): Promise<void> {
  const deadline = performance.now() + options.limitMs
  let end: string | undefined
  void options.postmaster.ended.then((how) => {
    end = how
  })
  for (;;) {
    const answer = await probe(options.url)
    options.signal.throwIfAborted()
    if (end !== undefined) throw new EmbeddedPostgresError('ended_before_ready', `Postgres ended (${end})`)
    if (answer === 'ready') return
    if (answer === 'refused')
      throw new EmbeddedPostgresError('cluster_unusable', 'Postgres refused the password')
    if (performance.now() > deadline) {
      throw new EmbeddedPostgresError(
        'not_ready_in_time',
        `Postgres took no connection in ${options.limitMs} ms`,
      )
    }
    await Promise.race([options.postmaster.ended, delay(PROBE_EVERY_MS)])
  }
}

/** Tries to log in once. */
export async function probe(url: string): Promise<'ready' | 'refused' | 'not_yet'> {
  const client = new Client({ connectionString: url, ssl: false, connectionTimeoutMillis: PROBE_TIMEOUT_MS })
  let hasFailed = false
  client.on('error', () => {
    hasFailed = true
  })
  try {
    await client.connect()
    await client.query('select 1')
    return hasFailed ? 'not_yet' : 'ready'
  } catch (error) {
    // Everything but a wrong password passes: not listening yet, starting up, shutting down, all connections taken.
    return codeOf(error) === '28P01' ? 'refused' : 'not_yet'
  } finally {
    await client.end()
  }
}

/** The preferred port if nobody listens on it, or else any free one. */
export async function choosePort(preferred: number): Promise<number> {
  const port = await tryPort(preferred)
  return port ?? (await tryPort(0)) ?? preferred
}

function tryPort(port: number): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', (error) => {
      const code = codeOf(error)
      if (code === 'EADDRINUSE' || code === 'EACCES') resolve(undefined)
      else reject(error)
    })
    server.listen({ host: '127.0.0.1', port, exclusive: true }, () => {
      const address = server.address()
      server.close(() => resolve(typeof address === 'object' && address ? address.port : undefined))
    })
  })
}

/**
 * Postgres takes any live process under the recorded pid, if it is the same user's, for a running server and refuses
 * to start. Only the pid is made impossible: the shared memory key further down still keeps us from starting beside
 * orphaned backends of a killed server. So it is written over and not emptied first, which on a full disk would lose that key.
 */
function disownStalePidFile(cluster: string): void {
  const lines = readPidFile(cluster)
  if (lines === undefined || findPostmaster(cluster) !== undefined) return
  const file = openSync(join(cluster, 'postmaster.pid'), PID_FILE_FLAGS)
  try {
    const bytes = Buffer.from([IMPOSSIBLE_PID, ...lines.slice(1)].join('\n'))
    const written = writeSync(file, bytes, 0, bytes.length, 0)
    if (written === bytes.length) ftruncateSync(file, written)
  } finally {
    closeSync(file)
  }
}

function readPidFile(cluster: string): string[] | undefined {
  try {
    return readFileSync(join(cluster, 'postmaster.pid'), 'utf8').split('\n')
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined
    throw error
  }
}

function workingDirectoryOf(pid: number): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/cwd`)
  } catch (error) {
    const code = codeOf(error)
    // Gone, or another user's process: either way not the postmaster of a cluster we may start.
    if (code === 'ENOENT' || code === 'ESRCH' || code === 'EACCES') return undefined
    throw error
  }
}

/** Appended to between starts, emptied when it has grown. */
function openLog(path: string): number {
  const log = openSync(path, LOG_FLAGS, 0o640)
  if (fstatSync(log).size > MAX_LOG_BYTES) ftruncateSync(log, 0)
  return log
}
