import { readdirSync, readFileSync } from 'node:fs'

export type ProcessSize = { readonly residentMb: number; readonly threads: number; readonly files: number }

/** What a living process holds, as Linux tells (proc(5)). */
export function processSize(pid: number): ProcessSize {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  const field = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)?.[1] ?? 0)
  return {
    residentMb: field('VmRSS') / 1_024,
    threads: field('Threads'),
    files: readdirSync(`/proc/${pid}/fd`).length,
  }
}

/** Linux counts hundredths of a second for every program, whatever the kernel's own clock (sysconf(_SC_CLK_TCK)). */
const TICKS_PER_S = 100

/** Seconds of processor time that a living process has used, all its threads together. */
export function processorS(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  // The name, in parentheses, may hold spaces; utime and stime are the 14th and 15th field.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_S
}
