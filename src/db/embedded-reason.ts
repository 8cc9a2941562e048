import { open, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import type { Files } from './embedded-cluster.ts'

/** One segment of the write-ahead log: a start needs room for the next. */
const LEAST_ROOM_BYTES = 16 * 1024 * 1024
const END_BYTES = 4_096

/** Why a server does not start, as far as its disk and the last words of its log tell; empty when they tell nothing. */
export async function reasonOfEnd(files: Files): Promise<string> {
  const said = /^.*(?:FATAL|PANIC):.*$/gm
  const words = (await endOf(files.log)).match(said)?.at(-1)
  const places = [files.cluster, join(files.cluster, 'pg_wal')]
  const full = await Promise.all(places.map(isFull))
  const at = places.findLast((_, n) => full[n])
  return [at && `there is no room on the disk of ${at}`, words && `it said "${words}"`]
    .filter((each) => each !== undefined)
    .join('; ')
}

async function isFull(path: string): Promise<boolean> {
  // What cannot be asked is no news: whoever asks has a failure to tell already.
  const room = await statfs(path).catch(() => undefined)
  return room !== undefined && room.bavail * room.bsize < LEAST_ROOM_BYTES
}

async function endOf(path: string): Promise<string> {
  const file = await open(path).catch(() => undefined)
  if (file === undefined) return ''
  try {
    const { size } = await file.stat()
    const { buffer, bytesRead } = await file.read({
      buffer: Buffer.alloc(END_BYTES),
      position: Math.max(0, size - END_BYTES),
    })
    return buffer.toString('utf8', 0, bytesRead)
  } finally {
    await file.close()
  }
}
