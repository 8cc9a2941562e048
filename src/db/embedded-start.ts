import { readFile } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import type { Account } from './embedded-account.ts'
import type { Binaries } from './embedded-binaries.ts'
import { type Connection, type Files, saveConnection, urlOf } from './embedded-cluster.ts'
import { EmbeddedPostgresError } from './embedded-error.ts'
import {
  adoptPostmaster,
  choosePort,
  findPostmaster,
  hasPidFile,
  type Postmaster,
  requestShutdown,
  spawnPostmaster,
  waitUntilReady,
} from './embedded-postmaster.ts'
import { reasonOfEnd } from './embedded-reason.ts'
import type { Log } from './embedded-supervisor.ts'

/** Recovery replays at most `max_wal_size` or so of log; on a slow disk that takes minutes. */
export const READY_LIMIT_MS = 10 * 60_000
/** After an unclean end, orphaned backends may hold the shared memory for a moment: 40 × 250 ms. */
const START_ATTEMPTS = 40
const START_RETRY_MS = 250

/** Everything a start needs that stays the same from one start to the next. */
export type Installation = {
  readonly files: Files
  readonly binaries: Binaries
  readonly account: Account | undefined
  readonly settings: Readonly<Record<string, string>>
  readonly log: Log
}

export type Started = { readonly postmaster: Postmaster; readonly connection: Connection }

/**
 * Brings the server up for the first time in this process, or adopts the one a killed owner left running.
 * A start that fails is tried again only where another try can help: after an unclean end, or when the port was
 * taken between our look and Postgres' own.
 */
export async function firstStart(installation: Installation, kept: Connection): Promise<Started> {
  const { files, log } = installation
  const isUnclean = hasPidFile(files.cluster)
  for (let attempt = 1; ; attempt++) {
    const connection = await connectionForStart(installation, kept)
    const postmaster = raise(installation, connection.port)
    try {
      await ready(connection, postmaster, new AbortController().signal, READY_LIMIT_MS)
      const details = { pid: postmaster.pid, port: connection.port, dataDir: files.dataDir }
      log.info({ event: 'postgres_started', ...details }, 'the embedded Postgres is ready')
      return { postmaster, connection }
    } catch (error) {
      if (!(error instanceof EmbeddedPostgresError)) throw error
      const hasLostPort = (await choosePort(connection.port)) !== connection.port
      const isWorthRetrying = error.code === 'ended_before_ready' && (isUnclean || hasLostPort)
      if (!isWorthRetrying || attempt === START_ATTEMPTS) throw await giveUp(error, installation, postmaster)
      await delay(START_RETRY_MS)
    }
  }
}

/** Starts a postmaster, or adopts the one that is already there. */
export function raise(installation: Installation, port: number): Postmaster {
  const { files, account, binaries, settings, log } = installation
  const running = findPostmaster(files.cluster)
  if (running) {
    log.info({ event: 'postgres_adopted', pid: running.pid }, 'found the embedded Postgres running')
    return adoptPostmaster(running.pid)
  }
  const { cluster, log: logFile } = files
  return spawnPostmaster({ postgres: binaries.postgres, cluster, logFile, port, account, settings })
}

/** Asks the maintenance database: before the first start is complete, ours does not exist. */
export function ready(
  connection: Connection,
  postmaster: Postmaster,
  signal: AbortSignal,
  limitMs: number,
): Promise<void> {
  return waitUntilReady({ url: urlOf(connection, 'postgres'), postmaster, signal, limitMs })
}

/** The running server's port, the kept one, or another one (kept from then on) when somebody listens on that. */
async function connectionForStart({ files, log }: Installation, kept: Connection): Promise<Connection> {
  const running = findPostmaster(files.cluster)
  const port = running ? (running.port ?? kept.port) : await choosePort(kept.port)
  if (port === kept.port) return kept
  const moved = { ...kept, port }
  await saveConnection(files, moved)
  log.warn(
    { event: 'postgres_port_changed', from: kept.port, to: port },
    `port ${kept.port} is taken; the embedded Postgres now uses ${port}`,
  )
  return moved
}

/** Leaves nothing running that we started, but for a server in recovery, and says what a person can do. */
async function giveUp(
  error: EmbeddedPostgresError,
  { files }: Installation,
  postmaster: Postmaster,
): Promise<EmbeddedPostgresError> {
  const message = await explanation(error, files)
  if (error.code === 'cluster_unusable' && !postmaster.isAdopted) {
    requestShutdown(postmaster)
    await postmaster.ended
  }
  return new EmbeddedPostgresError(error.code, message, { cause: error })
}

async function explanation(error: EmbeddedPostgresError, files: Files): Promise<string> {
  switch (error.code) {
    case 'cluster_unusable':
      return `The database in ${files.dataDir} does not accept the password in ${files.connection}. Put the right one there.`
    case 'not_ready_in_time':
      return `Postgres in ${files.dataDir} is still recovering after ${READY_LIMIT_MS / 60_000} minutes and goes on; start again later.`
    default: {
      const lastLines = (await readFile(files.log, 'utf8')).trim().split('\n').slice(-5).join('\n')
      const reason = await reasonOfEnd(files)
      return `Postgres could not be started in ${files.dataDir}: ${[error.message, reason].filter(Boolean).join('; ')}. The end of ${files.log}:\n${lastLines}`
    }
  }
}
