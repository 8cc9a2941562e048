import { setTimeout as delay } from 'node:timers/promises'
import type { Client } from 'pg'

/** About as often as an API under load commits. */
const EACH_MS = 4
const MOMENT_MS = 1

type Commit = { readonly beganAt: number; readonly endedAt: number }

/**
 * How long one would wait for a commit, in milliseconds, at each of many moments of so many seconds: what the disk
 * alone does to whoever needs a durable answer. A disk that stands still for a while is met by many at once, which a median
 * of commits one after the other does not show. A small table is left in the database.
 */
export async function commitWaits(client: Client, seconds: number): Promise<number[]> {
  await client.query('create table if not exists commit_wait (n integer)')
  const commits: Commit[] = []
  const startedAt = performance.now()
  while (performance.now() < startedAt + seconds * 1_000) {
    const beganAt = performance.now()
    await client.query('insert into commit_wait values ($1)', [commits.length])
    const endedAt = performance.now()
    commits.push({ beganAt, endedAt })
    const restMs = EACH_MS - (endedAt - beganAt)
    if (restMs > 0) await delay(restMs)
  }
  return waitsAmong(commits)
}

/** Whoever comes while a commit is under way waits for its end, and then for one of its own. */
export function waitsAmong(commits: readonly Commit[]): number[] {
  const waits: number[] = []
  const [first] = commits
  let moment = first?.beganAt ?? 0
  for (const [index, own] of commits.slice(1).entries()) {
    const before = commits[index] ?? own
    for (; moment < own.beganAt; moment += MOMENT_MS) {
      waits.push(Math.max(0, before.endedAt - moment) + own.endedAt - own.beganAt)
    }
  }
  return waits
}
