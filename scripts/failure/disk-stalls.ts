import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Scene } from './run.ts'

const EVERY_MS = 50
const PAGE = Buffer.alloc(4_096)

/** How long the disk of `dataDir` ever kept somebody waiting who wrote one page for good, beside all others who write. */
export async function watchDisk(scene: Scene, dataDir: string): Promise<{ stop(): Promise<number> }> {
  const file = await open(join(dataDir, 'disk-stalls'), 'w')
  const ending = new AbortController()
  let longestMs = 0
  const watching = (async () => {
    while (!ending.signal.aborted) {
      const startedAt = performance.now()
      await file.write(PAGE, 0, PAGE.length, 0)
      await file.datasync()
      longestMs = Math.max(longestMs, performance.now() - startedAt)
      await delay(EVERY_MS)
    }
    await file.close()
  })()
  const stop = async () => {
    ending.abort()
    await watching
    return Math.round(longestMs)
  }
  scene.after(stop)
  return { stop }
}
