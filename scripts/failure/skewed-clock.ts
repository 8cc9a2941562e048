import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { makeTestDirectory } from '../../test/support/database.ts'
import type { Scene } from './run.ts'

const LIBRARIES = ['x86_64-linux-gnu', 'aarch64-linux-gnu']
  .map((machine) => `/usr/lib/${machine}/faketime/libfaketime.so.1`)
  .concat('/usr/lib64/faketime/libfaketime.so.1')

/** What is missing for clocks that are wrong, as a sentence. */
export function missingFaketime(): string | undefined {
  return library() === undefined
    ? 'libfaketime is not installed (Debian: apt-get install faketime)'
    : undefined
}

export type SkewedClock = {
  /** For the processes that are to have this clock. */
  readonly environment: Readonly<Record<string, string>>
  /** Sets the clock of all of them, within a second: so many seconds ahead of the true time, or behind it. */
  set(aheadS: number): void
}

/**
 * A clock on the wall that is wrong, and can be set while processes run: libfaketime, below Node and everything in it. The
 * monotonic clock, which timers and durations use, is left alone, as it is when an administrator sets a clock.
 */
export async function openSkewedClock(scene: Scene, aheadS: number): Promise<SkewedClock> {
  const path = join(await makeTestDirectory(scene), 'faketime')
  const set = (seconds: number) => writeFileSync(path, `${seconds < 0 ? '' : '+'}${seconds}`)
  set(aheadS)
  return {
    set,
    environment: {
      LD_PRELOAD: library() ?? '',
      FAKETIME_TIMESTAMP_FILE: path,
      FAKETIME_CACHE_DURATION: '1',
      FAKETIME_DONT_FAKE_MONOTONIC: '1',
    },
  }
}

function library(): string | undefined {
  return LIBRARIES.find(existsSync)
}
