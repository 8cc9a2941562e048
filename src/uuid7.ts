import { randomUUIDv7 } from 'node:crypto'

const HIGHEST_MS = 2 ** 48 - 1

/** A time-ordered id of this moment (RFC 9562 section 5.7), as `mail.uuid7()` makes them. */
export function uuid7(atMs: number): string {
  const time = Math.min(Math.max(Math.floor(atMs), 0), HIGHEST_MS)
    .toString(16)
    .padStart(12, '0')
  // All after the time is version, variant and chance, whichever the process's own clock was.
  return `${time.slice(0, 8)}-${time.slice(8)}${randomUUIDv7().slice(13)}`
}
