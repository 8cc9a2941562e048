/**
 * The embedded Postgres: a real server from an npm package, for a machine that has none.
 *
 * Takes in a data directory; leaves behind a running server and the URL to reach it. The data is kept between starts.
 * One process, the owner, starts, supervises and stops the server; others that start on the same directory are guests.
 *
 * - The owner dies (SIGKILL): the server goes on; the next start adopts it and becomes the owner.
 * - The server dies (SIGKILL, out of memory): the owner starts it again on the same port, after crash recovery.
 * - Both die: the next start recovers. What was committed is there; unlogged tables are empty.
 * - Anything dies while the cluster is being made: the next start makes it anew.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { Client, escapeIdentifier } from 'pg'
import { type Account, choosePlace } from './embedded-account.ts'
import { locateBinaries } from './embedded-binaries.ts'
import {
  type Connection,
  DATABASE,
  ensureCluster,
  type Files,
  filesOf,
  newPassword,
  readConnection,
  saveConnection,
  urlOf,
} from './embedded-cluster.ts'
import { EmbeddedPostgresError } from './embedded-error.ts'
import { claimOwnership, isAlive, type ProcessIdentity } from './embedded-owner.ts'
import { choosePort, probe } from './embedded-postmaster.ts'
import { reasonOfEnd } from './embedded-reason.ts'
import { firstStart, type Installation, READY_LIMIT_MS, raise, ready } from './embedded-start.ts'
import { type Log, Supervisor } from './embedded-supervisor.ts'

export type EmbeddedPostgres = {
  /** `postgresql://sluice:<password>@127.0.0.1:<port>/sluice`; stays the same for as long as this process runs. */
  readonly url: string
  /** Where the data really is, which is not where it was asked for when root had to move it. */
  readonly dataDir: string
  /** False for a guest: the server is another process's, which restarts and stops it. */
  readonly owned: boolean
  /** Shuts the server down and waits for it; a guest leaves it running. Safe to call twice. */
  stop(): Promise<void>
}

export type EmbeddedPostgresOptions = {
  dataDir: string
  /** The user chose `dataDir`: it is an error, rather than moved elsewhere, when Postgres cannot reach it. */
  dataDirIsExplicit?: boolean
  /** Directory with `initdb` and `postgres` of another Postgres (15 or newer) to use instead of the package's. */
  binDir?: string
  /** Tried first when the server has no port yet; 0 takes any free one. Default 5433. */
  port?: number
  log: Log
  /** Server settings that win over postgresql.conf and `alter system`, for as long as this server runs. */
  settings?: Record<string, string>
}

const DEFAULT_PORT = 5433
const GUEST_POLL_MS = 100

/**
 * Starts the server of `dataDir`, or attaches to the one already running there.
 * Throws `EmbeddedPostgresError`; nothing is left running then, except a server still in recovery.
 */
export async function startEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const { dataDir, account } = await choosePlace({
    dataDir: options.dataDir,
    isExplicit: options.dataDirIsExplicit ?? false,
    log: options.log,
  })
  const files = filesOf(dataDir)
  for (;;) {
    const claim = claimOwnership(dataDir)
    if (claim.isOurs) {
      try {
        return await startAsOwner(options, files, account, claim.release)
      } catch (error) {
        claim.release()
        throw error
      }
    }
    const guest = await attachAsGuest(files, claim.owner, options.log)
    if (guest) return guest
  }
}

/** Waits for the owner's server; undefined when the owner ends meanwhile, and the directory is free to claim. */
async function attachAsGuest(
  files: Files,
  owner: ProcessIdentity,
  log: Log,
): Promise<EmbeddedPostgres | undefined> {
  const deadline = performance.now() + READY_LIMIT_MS
  while (isAlive(owner) && performance.now() < deadline) {
    const connection = await readConnection(files)
    const url = connection && urlOf(connection)
    if (url !== undefined && (await probe(url)) === 'ready') {
      log.info(
        { event: 'postgres_attached', ownerPid: owner.pid, dataDir: files.dataDir },
        `using the embedded Postgres that process ${owner.pid} runs`,
      )
      return { url, dataDir: files.dataDir, owned: false, stop: async () => undefined }
    }
    await delay(GUEST_POLL_MS)
  }
  if (!isAlive(owner)) return undefined
  throw new EmbeddedPostgresError(
    'not_ready_in_time',
    `Process ${owner.pid} runs the embedded Postgres in ${files.dataDir}, but it takes no connections. ` +
      `See ${files.log}; stop that process, or choose another SLUICE_DATA_DIR.`,
  )
}

async function startAsOwner(
  options: EmbeddedPostgresOptions,
  files: Files,
  account: Account | undefined,
  release: () => void,
): Promise<EmbeddedPostgres> {
  const { log, settings = {} } = options
  const binaries = await locateBinaries({ binDir: options.binDir, account, log })
  const kept = await keptConnection(files, options.port ?? DEFAULT_PORT)
  const isDurable = settings.fsync !== 'off'
  const state = await ensureCluster({ files, binaries, account, password: kept.password, isDurable })
  if (state === 'created')
    log.info({ event: 'postgres_created', dataDir: files.dataDir }, 'made a new database')

  const installation: Installation = { files, binaries, account, settings, log }
  const { postmaster, connection } = await firstStart(installation, kept)
  const supervisor = new Supervisor(
    {
      raise: () => raise(installation, connection.port),
      waitUntilReady: (raised, signal) => ready(connection, raised, signal, Number.POSITIVE_INFINITY),
      reasonOfEnd: () => reasonOfEnd(files),
      log,
    },
    postmaster,
  )
  const stop = () => supervisor.stop().finally(release)
  try {
    await ensureDatabase(connection, log)
  } catch (error) {
    await stop()
    throw error
  }
  return { url: urlOf(connection), dataDir: files.dataDir, owned: true, stop }
}

/** Port and password are written before the cluster exists, so that no cluster is ever without its password. */
async function keptConnection(files: Files, preferredPort: number): Promise<Connection> {
  const kept = await readConnection(files)
  if (kept) return kept
  const fresh = { port: await choosePort(preferredPort), password: newPassword() }
  await saveConnection(files, fresh)
  return fresh
}

async function ensureDatabase(connection: Connection, log: Log): Promise<void> {
  const client = new Client({ connectionString: urlOf(connection, 'postgres'), ssl: false })
  client.on('error', (err) =>
    log.warn({ event: 'postgres_connection_lost', err }, 'the first connection was lost'),
  )
  await client.connect()
  try {
    const found = await client.query('select from pg_catalog.pg_database where datname = $1', [DATABASE])
    if (found.rowCount === 0) await client.query(`create database ${escapeIdentifier(DATABASE)}`)
  } finally {
    await client.end()
  }
}
