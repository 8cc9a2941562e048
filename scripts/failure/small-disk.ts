import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, existsSync, openSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { beforeRemoval } from '../../test/support/database.ts'

/** A file system of a few megabytes, to be filled up under a server. */
export type SmallDisk = {
  readonly path: string
  /** Takes all the room there is, and whatever is given back meanwhile, until it is freed. */
  fill(): Promise<void>
  free(): Promise<void>
}

/** What this machine lacks for it, as a sentence. */
export function missingForMounts(): string | undefined {
  if (process.getuid?.() !== 0) return 'only root may mount a small disk'
  const { status } = spawnSync('unshare', ['--mount', 'mount', '-t', 'tmpfs', 'none', '/mnt'])
  return status === 0
    ? undefined
    : 'the commands unshare and mount must be there, and allowed to mount a tmpfs'
}

/**
 * Whoever ends, the run or its machine's patience: the holder hears its standard input close, and takes the disk away with
 * the server on it, which would outlive it otherwise.
 */
const HOLD = `
mount -t tmpfs -o size="$2",mode=711 sluice-run "$1" && echo mounted || exit 1
read -r _
for pid in $(head -n 1 "$1/cluster/postmaster.pid" 2>/dev/null); do kill -QUIT "$pid" 2>/dev/null; done
umount -l "$1"
`
const CHUNK = Buffer.alloc(1024 * 1024)
const PAGE_BYTES = 4_096
const TOP_UP_MS = 100

/** Mounts one on an empty directory within `dataDir`, which is a `makeTestDirectory`, or that directory itself. */
export async function mountSmallDisk(dataDir: string, path: string, sizeMb: number): Promise<SmallDisk> {
  const holder = spawn('sh', ['-c', HOLD, 'sh', path, `${sizeMb}m`], {
    stdio: ['pipe', 'pipe', 'inherit'],
    detached: true,
  })
  const ended = once(holder, 'exit')
  await Promise.race([once(holder.stdout, 'data'), ended])
  if (holder.exitCode !== null) throw new Error(`a small disk could not be mounted on ${path}`)
  const filler = join(path, 'filler')
  let isFull = false
  let filling = Promise.resolve()
  const free = async () => {
    isFull = false
    await filling
    rmSync(filler, { force: true })
  }
  beforeRemoval(dataDir, async () => {
    await free()
    holder.stdin.end()
    await ended
  })
  const keepFull = async () => {
    while (isFull) {
      await delay(TOP_UP_MS)
      if (isFull) takeAll(filler)
    }
  }
  return {
    path,
    free,
    fill: async () => {
      takeAll(filler)
      isFull = true
      filling = keepFull()
    },
  }
}

function takeAll(filler: string): void {
  const file = openSync(filler, existsSync(filler) ? 'a' : 'ax')
  try {
    for (let bytes = CHUNK.length; bytes >= PAGE_BYTES; bytes /= 2) while (takes(file, bytes));
  } finally {
    closeSync(file)
  }
}

function takes(file: number, bytes: number): boolean {
  try {
    return writeSync(file, CHUNK, 0, bytes) === bytes
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOSPC') return false
    throw error
  }
}
