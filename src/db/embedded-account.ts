import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, realpathSync, statSync } from 'node:fs'
import { access, chmod, constants, mkdir } from 'node:fs/promises'
import { dirname, join, relative, resolve, sep } from 'node:path'
import { CHILD_ENV } from './embedded-environment.ts'
import { codeOf, EmbeddedPostgresError } from './embedded-error.ts'

/** Postgres refuses to run as root, so a root process starts it as one of these. */
export type Account = { readonly name: string; readonly uid: number; readonly gid: number }

/** Where a root process puts what the Postgres account could not reach elsewhere. */
export const SYSTEM_DIR = '/var/lib/sluice'

const OWN_ACCOUNT = 'sluice'

/** `account` is undefined when this process is not root: Postgres then runs as the same user. */
export type Place = { readonly dataDir: string; readonly account: Account | undefined }

/**
 * Decides where the data lives and which user Postgres runs as, and makes the directory.
 * A directory the account cannot reach is an error when the user chose it, and moved under `SYSTEM_DIR` otherwise.
 */
export async function choosePlace(options: {
  dataDir: string
  isExplicit: boolean
  log: { warn(o: object, m: string): void }
}): Promise<Place> {
  const wanted = resolve(options.dataDir)
  if (process.getuid?.() !== 0) return { dataDir: await makeOwnDirectory(wanted), account: undefined }

  const account = accountFor(wanted)
  const blocked = firstUnreachable(wanted, account)
  if (blocked === undefined) return { dataDir: await makePassableDirectory(wanted), account }
  if (options.isExplicit) {
    throw new EmbeddedPostgresError(
      'directory_unreachable',
      `The data directory ${wanted} cannot be used: Postgres runs as user "${account.name}", which may not enter ${blocked}. ` +
        `Choose another SLUICE_DATA_DIR, run "chmod a+x ${blocked}", or set DATABASE_URL.`,
    )
  }
  const dataDir = relocated(wanted)
  options.log.warn(
    { event: 'postgres_data_relocated', dataDir, wanted, blocked, account: account.name },
    `user "${account.name}", which Postgres runs as, may not enter ${blocked}: the data is kept in ${dataDir}`,
  )
  return { dataDir: await makePassableDirectory(dataDir), account: accountFor(dataDir) }
}

/** Where data goes that was wanted at this absolute path, when the account cannot reach that. */
export function relocated(wanted: string): string {
  return join(SYSTEM_DIR, createHash('sha256').update(wanted).digest('hex').slice(0, 12))
}

/**
 * The first directory (or file) on the way to `path` that `account` may not enter (or execute), undefined when
 * all is well. What does not exist yet is not checked. A child process asks, as that user: mode bits alone would
 * miss access lists and read-only or foreign mounts.
 */
export function firstUnreachable(path: string, account: Account): string | undefined {
  const script = 'for p do [ -x "$p" ] || { printf %s "$p"; exit 1; }; done'
  const { uid, gid } = account
  const existing = realpathSync(nearestExisting(path))
  const asked = spawnSync('/bin/sh', ['-c', script, 'sh', ...pathsDownTo(existing)], {
    ...{ uid, gid, cwd: '/' },
    env: CHILD_ENV,
  })
  if (asked.error) {
    throw new EmbeddedPostgresError(
      'account_unavailable',
      `Postgres refuses to run as root, and this process may not start programs as user "${account.name}" ` +
        `(${codeOf(asked.error)}). Run it as an ordinary user or set DATABASE_URL.`,
      { cause: asked.error },
    )
  }
  return asked.status === 0 ? undefined : asked.stdout.toString()
}

/** An existing cluster keeps its user, so that it works with and without sudo; a new one gets a system user. */
function accountFor(dataDir: string): Account {
  const owner = statSync(join(dataDir, 'cluster'), { throwIfNoEntry: false })
  if (owner !== undefined && owner.uid !== 0) {
    return { name: ask('id', '-un', String(owner.uid)) ?? String(owner.uid), uid: owner.uid, gid: owner.gid }
  }
  const account = lookUp('postgres') ?? lookUp(OWN_ACCOUNT) ?? createAccount() ?? lookUp('nobody')
  if (account !== undefined) return account
  throw new EmbeddedPostgresError(
    'account_unavailable',
    'Postgres refuses to run as root, and there is neither a user "postgres" nor "nobody" here, nor could one be made. ' +
      'Run this as an ordinary user or set DATABASE_URL.',
  )
}

function createAccount(): Account | undefined {
  const noLogin = ['--no-create-home', '--home-dir', '/nonexistent', '--shell', '/usr/sbin/nologin']
  ask('useradd', '--system', '--user-group', ...noLogin, OWN_ACCOUNT)
  // Looked up whatever useradd said: another process may have made the user at the same moment.
  return lookUp(OWN_ACCOUNT)
}

function lookUp(name: string): Account | undefined {
  const uid = Number(ask('id', '-u', name))
  const gid = Number(ask('id', '-g', name))
  return uid > 0 && gid >= 0 ? { name, uid, gid } : undefined
}

/** The one-line answer of a system command; undefined when it fails or does not exist here. */
function ask(command: string, ...args: string[]): string | undefined {
  const answer = spawnSync(command, args, { encoding: 'utf8', env: CHILD_ENV })
  return answer.status === 0 ? answer.stdout.trim() : undefined
}

async function makeOwnDirectory(dataDir: string): Promise<string> {
  try {
    await mkdir(dataDir, { recursive: true, mode: 0o700 })
    await access(dataDir, constants.R_OK | constants.W_OK | constants.X_OK)
    return dataDir
  } catch (error) {
    throw new EmbeddedPostgresError(
      'directory_unreachable',
      `The data directory ${dataDir} cannot be made or written (${codeOf(error)}). ` +
        'Choose another SLUICE_DATA_DIR or set DATABASE_URL.',
      { cause: error },
    )
  }
}

/** Others may pass through what is made here, whatever the umask, but not list it; the cluster inside is private. */
async function makePassableDirectory(dataDir: string): Promise<string> {
  const created = await mkdir(dataDir, { recursive: true })
  if (created === undefined) return dataDir
  for (const path of pathsDownTo(dataDir)) if (path.startsWith(created)) await chmod(path, 0o711)
  return dataDir
}

function nearestExisting(path: string): string {
  return existsSync(path) ? path : nearestExisting(dirname(path))
}

/** `/a/b` → `/`, `/a`, `/a/b` */
function pathsDownTo(path: string): string[] {
  const names = relative('/', path).split(sep)
  return ['/', ...names.map((_, index) => `/${names.slice(0, index + 1).join('/')}`)]
}
