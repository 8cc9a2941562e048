import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { chmod, mkdir, rename, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { choosePlace } from '../../src/db/embedded-account.ts'
import { locateBinaries } from '../../src/db/embedded-binaries.ts'
import { makeClusterDirectory, makeTestDirectory } from '../../test/support/database.ts'
import { type KillablePostgres, startKillableIn } from '../../test/support/killable-postgres.ts'
import type { Scene } from './run.ts'

const SOURCE = fileURLToPath(new URL('./slow-disk.c', import.meta.url))
const QUIET = { info: () => undefined, warn: () => undefined }

/** What this machine lacks for it, as a sentence. */
export function missingCompiler(): string | undefined {
  const { status } = spawnSync('cc', ['--version'])
  return status === 0 ? undefined : 'there is no C compiler (Debian: apt-get install gcc libc6-dev)'
}

export type SlowDisk = {
  /** Each sync takes so many milliseconds longer from now on. */
  slowBy(ms: number): Promise<void>
  /** The next sync ends with EIO. */
  failOnce(): Promise<void>
  /** Whether that has happened. */
  hasFailed(): boolean
  asItIs(): Promise<void>
}

/** A server whose fsync and fdatasync do what the run wants: a library loaded before it, compiled here. */
export async function startOnSlowDisk(scene: Scene): Promise<{ server: KillablePostgres; disk: SlowDisk }> {
  const tools = await makeTestDirectory(scene)
  const library = join(tools, 'slow-disk.so')
  execFileSync('cc', ['-shared', '-fPIC', '-O1', '-Wall', '-Werror', '-o', library, SOURCE, '-ldl'])
  // Its own place, where the user that the server runs as may take the file away.
  const place = join(tools, 'orders')
  await mkdir(place)
  await chmod(place, 0o777)
  const order = join(place, 'order')
  const dataDir = await makeClusterDirectory(scene)
  scene.guard?.watchData(dataDir)
  const binDir = await wrapBinaries(dataDir, tools, { LD_PRELOAD: library, SLOW_DISK: order })
  const server = await startKillableIn(scene, dataDir, { binDir })
  const give = async (text: string) => {
    await writeFile(`${order}.next`, text, { mode: 0o644 })
    await rename(`${order}.next`, order)
  }
  return {
    server,
    disk: {
      slowBy: (ms) => give(`delay ${ms}`),
      failOnce: () => give('fail'),
      hasFailed: () => !existsSync(order),
      asItIs: () => rm(order, { force: true }),
    },
  }
}

/** Programs of the same names that set the environment first: what starts a server passes nothing on. */
async function wrapBinaries(
  dataDir: string,
  tools: string,
  environment: Readonly<Record<string, string>>,
): Promise<string> {
  const { account } = await choosePlace({ dataDir, isExplicit: true, log: QUIET })
  const real = await locateBinaries({ binDir: process.env.SLUICE_TEST_BIN_DIR, account, log: QUIET })
  const binDir = join(tools, 'bin')
  await mkdir(binDir)
  const settings = Object.entries(environment).map(([name, value]) => `${name}='${value}'`)
  for (const name of ['initdb', 'postgres']) {
    const program = join(dirname(real.postgres), name)
    const lines = ['#!/bin/sh', `${name === 'postgres' ? settings.join(' ') : ''} exec '${program}' "$@"`, '']
    await writeFile(join(binDir, name), lines.join('\n'), { mode: 0o755 })
  }
  return binDir
}
