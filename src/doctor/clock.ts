import { type Finding, ok, problem, warning } from './finding.ts'
import type { Reader } from './reader.ts'
import { duration } from './words.ts'

/** Providers sign requests by the minute; retries, quotas and schedules go by the database's clock. */
const NOTABLE_S = 2
const GRAVE_S = 60

export async function checkClock({ ask }: Reader, now: () => number): Promise<Finding> {
  const name = 'clock'
  const before = now()
  const [there] = await ask<{ ms: number }>(
    '/* doctor.clock */ select extract(epoch from clock_timestamp())::double precision * 1000 as ms',
  )
  const after = now()
  const ms = there?.ms ?? before
  // Somewhere between the two it was read: only what lies outside is a difference.
  const apart = Math.max(before - ms, ms - after, 0) / 1_000
  if (apart < NOTABLE_S) return ok(name, 'this machine and the database agree')
  const found = `this machine is ${duration(apart)} ${ms > after ? 'behind' : 'ahead of'} the database`
  const advice = 'let both keep time by NTP (timedatectl status)'
  return (apart >= GRAVE_S ? problem : warning)(name, found, advice)
}
