import { readdirSync, readFileSync } from 'node:fs'

/** What Linux calls USER_HZ: 100 on every machine, whatever the kernel's own tick is (proc(5)). */
const TICKS_PER_S = 100

/** A process, or with `family` also its children: those that live, and those that ended and were waited for. */
export type Watched = { readonly name: string; readonly pid: number; readonly family?: boolean }

export type CpuSeconds = ReadonlyMap<string, number>

/** CPU seconds used since each process began, by name; processes of one name are added up. */
export function readCpu(watched: readonly Watched[]): CpuSeconds {
  const seconds = new Map<string, number>()
  const families = watched.some(({ family }) => family === true) ? parents() : new Map<number, number[]>()
  for (const { name, pid, family } of watched) {
    const own = ticksOf(pid)
    let ticks = own.self
    if (family === true) {
      ticks += own.waitedFor
      for (const child of families.get(pid) ?? []) ticks += ticksOf(child).self
    }
    seconds.set(name, (seconds.get(name) ?? 0) + ticks / TICKS_PER_S)
  }
  return seconds
}

export function cpuBetween(before: CpuSeconds, after: CpuSeconds): CpuSeconds {
  return new Map([...after].map(([name, seconds]) => [name, seconds - (before.get(name) ?? 0)]))
}

type Ticks = { readonly parent: number; readonly self: number; readonly waitedFor: number }

const ENDED: Ticks = { parent: 0, self: 0, waitedFor: 0 }

function ticksOf(pid: number): Ticks {
  let stat: string
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
  } catch {
    // It ended since it was listed: its parent's count has it now.
    return ENDED
  }
  // Counted from the last bracket: the program's name before it may hold anything.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  const number = (index: number) => Number(fields[index])
  return { parent: number(1), self: number(11) + number(12), waitedFor: number(13) + number(14) }
}

/** A process and its children, by number. */
export function familyOf(pid: number): number[] {
  return [pid, ...(parents().get(pid) ?? [])]
}

function parents(): Map<number, number[]> {
  const children = new Map<number, number[]>()
  for (const name of readdirSync('/proc')) {
    const pid = Number(name)
    if (!(pid > 0)) continue
    const { parent } = ticksOf(pid)
    children.set(parent, [...(children.get(parent) ?? []), pid])
  }
  return children
}
