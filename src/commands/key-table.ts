import type { StoredKey } from '../keys/keys.ts'
import { excerpt } from '../message/message-text.ts'

const HEADINGS = ['ID', 'NAME', 'SCOPE', 'LIMITS', 'CREATED', 'LAST USED', 'EXPIRES', 'STATE']

/** One line a key, columns as wide as they need to be; times in UTC. */
export function keyTable(keys: readonly StoredKey[], now: Date): string {
  const rows = [HEADINGS, ...keys.map((key) => cellsOf(key, now))]
  const widths = HEADINGS.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)))
  return rows
    .map(
      (row) =>
        `${row
          .map((cell, column) => cell.padEnd(widths[column] ?? 0))
          .join('  ')
          .trimEnd()}\n`,
    )
    .join('')
}

function cellsOf(key: StoredKey, now: Date): string[] {
  return [
    key.id,
    excerpt(key.name),
    key.scope,
    limitsOf(key),
    timeOf(key.created_at),
    timeOf(key.last_used_at),
    timeOf(key.expires_at),
    stateOf(key, now),
  ]
}

function limitsOf({ streams, sender_domains, rate_limit_per_s, rate_burst }: StoredKey): string {
  const limits = [
    ...(streams === null ? [] : [`streams ${streams.join(',')}`]),
    ...(sender_domains === null ? [] : [`from ${sender_domains.join(',')}`]),
    ...(rate_limit_per_s === null ? [] : [`${rate_limit_per_s}/s`]),
    ...(rate_burst === null ? [] : [`${rate_burst} at once`]),
  ]
  return limits.join('; ') || '-'
}

function stateOf({ revoked_at, expires_at, previous_expires_at }: StoredKey, now: Date): string {
  if (revoked_at !== null) return 'revoked'
  if (expires_at !== null && expires_at <= now) return 'expired'
  if (previous_expires_at !== null && previous_expires_at > now) {
    return `two secrets until ${timeOf(previous_expires_at)}`
  }
  return 'active'
}

function timeOf(time: Date | null): string {
  return time === null ? '-' : time.toISOString().slice(0, 16).replace('T', ' ')
}
