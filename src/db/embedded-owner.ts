import { randomUUID } from 'node:crypto'
import { existsSync, linkSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import { codeOf } from './embedded-error.ts'

const PROCESS = z.object({ pid: z.number().int().positive(), startedAt: z.string() })

/** A process that cannot be mistaken for a later one with the same pid. */
export type ProcessIdentity = Readonly<z.infer<typeof PROCESS>>

export type Claim =
  | { readonly isOurs: true; release(): void }
  | { readonly isOurs: false; readonly owner: ProcessIdentity }

/**
 * Makes this process the one that starts, supervises and stops the server of `dataDir`, unless another live process
 * is. The owner is named in a file: it outlives a killed owner, so a claim is only as good as its process is alive.
 * Synchronous, so that two starts in one process cannot interleave.
 */
export function claimOwnership(dataDir: string): Claim {
  const path = join(dataDir, 'owner.json')
  const mine = { pid: process.pid, startedAt: startOf(process.pid) ?? '' }
  const candidate = `${path}.${randomUUID()}`
  writeFileSync(candidate, JSON.stringify(mine), { flag: 'wx', mode: 0o644 })
  try {
    while (!linkIfAbsent(candidate, path)) {
      const owner = readOwner(path)
      if (owner !== undefined && isAlive(owner)) return { isOurs: false, owner }
      removeIfUnchanged(path, owner)
    }
    return { isOurs: true, release: () => removeIfUnchanged(path, mine) }
  } finally {
    rmSync(candidate, { force: true })
  }
}

export function isAlive(identity: ProcessIdentity): boolean {
  return startOf(identity.pid) === identity.startedAt
}

/**
 * When the process with this pid started, in a form only good for comparison; undefined when there is none, or only
 * a zombie of it. The boot id is part of it: start times are counted from boot (proc(5), field 22 of stat).
 */
export function startOf(pid: number): string | undefined {
  if (!existsSync('/proc/self/stat')) return isSignalable(pid) ? '' : undefined
  const stat = readIfPresent(`/proc/${pid}/stat`)
  if (stat === undefined) return undefined
  // The second field is the program's name in brackets and may hold anything, so fields count from the last bracket.
  const [state, ...rest] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  if (state === 'Z' || state === 'X') return undefined
  const bootId = readIfPresent('/proc/sys/kernel/random/boot_id')?.trim() ?? ''
  return `${bootId}:${rest[18]}`
}

function isSignalable(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch (error) {
    return codeOf(error) === 'EPERM'
  }
}

/** A link appears under its name with its content complete, or not at all. */
function linkIfAbsent(candidate: string, path: string): boolean {
  try {
    linkSync(candidate, path)
    return true
  } catch (error) {
    if (codeOf(error) === 'EEXIST') return false
    throw error
  }
}

/** Undefined when the file is gone by now, or unreadable as after a power cut: nobody owns the directory then. */
function readOwner(path: string): ProcessIdentity | undefined {
  const text = readIfPresent(path)
  if (text === undefined) return undefined
  try {
    return PROCESS.parse(JSON.parse(text))
  } catch (error) {
    if (error instanceof SyntaxError || error instanceof z.ZodError) return undefined
    throw error
  }
}

/** Of two processes that find the same dead owner, the slower must not remove the quicker one's fresh claim. */
function removeIfUnchanged(path: string, expected: ProcessIdentity | undefined): void {
  const aside = `${path}.${randomUUID()}`
  try {
    renameSync(path, aside)
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return
    throw error
  }
  const found = readOwner(aside)
  if (found?.pid !== expected?.pid || found?.startedAt !== expected?.startedAt) linkIfAbsent(aside, path)
  rmSync(aside)
}

function readIfPresent(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    const code = codeOf(error)
    // ESRCH: the process ended between the open and the read.
    if (code === 'ENOENT' || code === 'ESRCH') return undefined
    throw error
  }
}
