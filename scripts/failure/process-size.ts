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
