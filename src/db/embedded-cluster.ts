import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { appendFile, chown, mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { z } from 'zod'
import type { Account } from './embedded-account.ts'
import type { Binaries } from './embedded-binaries.ts'
import { CHILD_ENV } from './embedded-environment.ts'
import { codeOf, EmbeddedPostgresError, saidBy } from './embedded-error.ts'

const run = promisify(execFile)

export const USER = 'sluice'
export const DATABASE = 'sluice'

/** The files of one data directory. Only `cluster` belongs to Postgres; what lies beside it is ours. */
export type Files = {
  readonly dataDir: string
  readonly cluster: string
  readonly log: string
  readonly connection: string
}

export function filesOf(dataDir: string): Files {
  const inside = (name: string) => join(dataDir, name)
  return {
    dataDir,
    cluster: inside('cluster'),
    log: inside('postgres.log'),
    connection: inside('connection.json'),
  }
}

const CONNECTION = z.object({ port: z.number().int().min(1).max(65535), password: z.string().min(1) })

/** How to reach the server: chosen at the first start and kept, so that saved URLs go on working. */
export type Connection = Readonly<z.infer<typeof CONNECTION>>

export function urlOf(connection: Connection, database = DATABASE): string {
  return `postgresql://${USER}:${connection.password}@127.0.0.1:${connection.port}/${database}`
}

/** Undefined before the first start. Throws `cluster_unusable` when the file is not one of ours. */
export async function readConnection(files: Files): Promise<Connection | undefined> {
  try {
    return CONNECTION.parse(JSON.parse(await readFile(files.connection, 'utf8')))
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined
    throw new EmbeddedPostgresError(
      'cluster_unusable',
      `${files.connection}, which holds the database's port and password, cannot be read (${codeOf(error) ?? 'broken'}). ` +
        'Restore it, start as the user it belongs to, or choose another SLUICE_DATA_DIR.',
      { cause: error },
    )
  }
}

/** Replaced as a whole and synced: without the password in it the cluster could not be opened again. */
export async function saveConnection(files: Files, connection: Connection): Promise<void> {
  const fresh = `${files.connection}.${process.pid}`
  await rm(fresh, { force: true })
  const file = await open(fresh, 'wx', 0o600)
  try {
    await file.writeFile(`${JSON.stringify(connection, null, 2)}\n`)
    // Started with sudo once, the files must still open without it.
    const { uid, gid } = await stat(files.dataDir)
    if (process.getuid?.() === 0) await file.chown(uid, gid)
    await file.sync()
  } finally {
    await file.close()
  }
  await rename(fresh, files.connection)
}

export function newPassword(): string {
  return randomBytes(24).toString('base64url')
}

/** Makes sure there is a cluster these binaries and this user can start. */
export async function ensureCluster(options: {
  files: Files
  binaries: Binaries
  account: Account | undefined
  password: string
  isDurable: boolean
}): Promise<'created' | 'found'> {
  const { files, binaries, account } = options
  await removePartials(files)
  if (!existsSync(files.cluster)) {
    await createCluster(options)
    return 'created'
  }
  await checkOwner(files, account)
  const version = Number((await readFile(join(files.cluster, 'PG_VERSION'), 'utf8')).trim())
  if (version === binaries.majorVersion) return 'found'
  throw new EmbeddedPostgresError(
    'cluster_unusable',
    `The data in ${files.dataDir} was made by PostgreSQL ${version}, but this is PostgreSQL ${binaries.majorVersion}. ` +
      'Choose another SLUICE_DATA_DIR, or move the data with pg_dump of the old version and DATABASE_URL.',
  )
}

/** Postgres starts only as the owner of its cluster. */
async function checkOwner(files: Files, account: Account | undefined): Promise<void> {
  const { uid } = await stat(files.cluster)
  if (uid === (account?.uid ?? process.getuid?.())) return
  if (account !== undefined && uid === 0) {
    await run('chown', ['-hR', `${account.uid}:${account.gid}`, files.cluster], { env: CHILD_ENV })
    return
  }
  throw new EmbeddedPostgresError(
    'cluster_unusable',
    `The data in ${files.cluster} belongs to user id ${uid}, so only that user (or root) can start it. ` +
      'Start as that user, change its owner with chown -R, or choose another SLUICE_DATA_DIR.',
  )
}

/** Under another name until it is complete: a process killed in the middle leaves nothing that looks like a cluster. */
async function createCluster(options: Parameters<typeof ensureCluster>[0]): Promise<void> {
  const { files, binaries, account } = options
  const partial = `${files.cluster}.partial-${process.pid}`
  const passwordFile = `${partial}.password`
  await mkdir(partial, { mode: 0o700 })
  const file = await open(passwordFile, 'wx', 0o600)
  await file.writeFile(`${options.password}\n`)
  await file.close()
  if (account) for (const path of [partial, passwordFile]) await chown(path, account.uid, account.gid)
  const args = ['-D', partial, '-U', USER, '-A', 'scram-sha-256', `--pwfile=${passwordFile}`]
  await runInitdb(binaries.initdb, [...args, ...initdbFlags(binaries, options.isDurable)], account)
  await appendFile(join(partial, 'postgresql.conf'), SETTINGS)
  await rename(partial, files.cluster)
  await removePartials(files)
}

/** Plain code point order everywhere: fast, and never changed by a system upgrade. 17 and newer add full Unicode case. */
function initdbFlags(binaries: Binaries, isDurable: boolean): string[] {
  const locale = ['--encoding=UTF8', '--locale=C', '--data-checksums']
  if (binaries.majorVersion >= 17) locale.push('--locale-provider=builtin', '--builtin-locale=C.UTF-8')
  return isDurable ? locale : [...locale, '--no-sync']
}

async function runInitdb(initdb: string, args: string[], account: Account | undefined): Promise<void> {
  const identity = account ? { uid: account.uid, gid: account.gid } : {}
  try {
    await run(initdb, args, { cwd: '/', env: CHILD_ENV, ...identity })
  } catch (error) {
    throw new EmbeddedPostgresError(
      'cluster_unusable',
      `A new database could not be made with ${initdb}: ${saidBy(error) || codeOf(error) || 'no reason given'}. ` +
        'Check that the disk has space and allows writing, or set DATABASE_URL.',
      { cause: error },
    )
  }
}

async function removePartials(files: Files): Promise<void> {
  for (const name of await readdir(files.dataDir)) {
    if (name.startsWith('cluster.partial-'))
      await rm(join(files.dataDir, name), { recursive: true, force: true })
  }
}

/**
 * In the file rather than on the command line, so that `alter system` and an editor can change them. Durability stays
 * at Postgres' own defaults. The log leaves out statements and details, as both quote addresses and bodies.
 */
const SETTINGS = `
# Sluice
shared_buffers = 256MB
max_connections = 200
max_wal_size = 2GB
jit = off
autovacuum_naptime = 15s
timezone = 'UTC'
log_timezone = 'UTC'
log_min_error_statement = panic
log_error_verbosity = terse
`
