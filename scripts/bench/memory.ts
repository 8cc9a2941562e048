import { readFileSync } from 'node:fs'
import { familyOf, type Watched } from './cpu.ts'

/** The most memory a process has held so far (VmHWM of proc_pid_status(5)); NaN when it is gone. */
export function highestMemoryMb(pid: number): number {
  return fieldMb(`/proc/${pid}/status`, /^VmHWM:\s+(\d+) kB$/m)
}

/** What a process and its children hold now, memory that they share counted once (Pss of proc_pid_smaps(5)). */
export function sharedOnceMb({ pid }: Watched): number {
  const held = familyOf(pid).map((member) => fieldMb(`/proc/${member}/smaps_rollup`, /^Pss:\s+(\d+) kB$/m))
  return held.filter((mb) => !Number.isNaN(mb)).reduce((sum, mb) => sum + mb, 0)
}

function fieldMb(path: string, field: RegExp): number {
  try {
    return Number(field.exec(readFileSync(path, 'latin1'))?.[1]) / 1_024
  } catch {
    // The process has ended, or is another user's.
    return Number.NaN
  }
}
