import type { IncomingHttpHeaders } from 'node:http'
import type { ProviderRate } from '../transport.ts'

/** Whatever a provider says, it is asked again after an hour: a wrong header must not stop the mail for a day. */
export const MAX_WAIT_MS = 3_600_000
const MAX_REMAINING = 1_000_000_000
/** A reset beyond this is a point in time; as a number of seconds it would be thirty years. */
const EPOCH_FROM_S = 1_000_000_000
const EPOCH_FROM_MS = 1_000_000_000_000

/**
 * What an answer says about the provider's limits; undefined when it says nothing that makes sense. Reads, the first
 * that is there:
 *
 * - remaining and reset: `X-RateLimit-*` (SendGrid, Mailgun), `RateLimit-*` (Resend; draft-ietf-httpapi-ratelimit-headers
 *   up to 06), `RateLimit` (the later drafts);
 * - a pause: `Retry-After` (RFC 9110 section 10.2.3) of any refusal; without one, the reset of a 429.
 */
export function readRate(
  headers: IncomingHttpHeaders,
  status: number,
  nowMs: number,
): ProviderRate | undefined {
  const combined = readCombined(textOf(headers.ratelimit))
  const remaining =
    readRemaining(textOf(headers['x-ratelimit-remaining'])) ??
    readRemaining(textOf(headers['ratelimit-remaining'])) ??
    combined.remaining
  const resetMs =
    readReset(textOf(headers['x-ratelimit-reset']), nowMs) ??
    readReset(textOf(headers['ratelimit-reset']), nowMs) ??
    combined.resetMs
  const asked = status < 300 ? undefined : readRetryAfter(textOf(headers['retry-after']), nowMs)
  const pauseMs = asked ?? (status === 429 ? resetMs : undefined)
  if (remaining === undefined && resetMs === undefined && pauseMs === undefined) return undefined
  return {
    ...(remaining === undefined ? {} : { remaining }),
    ...(resetMs === undefined ? {} : { resetMs }),
    ...(pauseMs === undefined ? {} : { pauseMs }),
  }
}

/** Milliseconds from now; undefined for what is neither seconds nor an HTTP date. A date gone by is 0. */
export function readRetryAfter(value: string, nowMs: number): number | undefined {
  if (/^\d{1,15}(?:\.\d{1,9})?$/.test(value)) return clampWait(Number(value) * 1_000)
  if (!/^[A-Z][a-z]{2,8},? .{10,40} GMT$/.test(value)) return undefined
  const at = Date.parse(value)
  return Number.isNaN(at) ? undefined : clampWait(at - nowMs)
}

/** Seconds from now, or a point in time in seconds or milliseconds since 1970, as milliseconds from now. */
export function readReset(value: string, nowMs: number): number | undefined {
  if (!/^\d{1,15}(?:\.\d{1,9})?$/.test(value)) return undefined
  const number = Number(value)
  if (number >= EPOCH_FROM_MS) return clampWait(number - nowMs)
  if (number >= EPOCH_FROM_S) return clampWait(number * 1_000 - nowMs)
  return clampWait(number * 1_000)
}

export function readRemaining(value: string): number | undefined {
  if (!/^\d{1,15}$/.test(value)) return undefined
  return Math.min(Number(value), MAX_REMAINING)
}

/** `"burst";r=50;t=30` of the later drafts, `limit=100, remaining=50, reset=30` of an earlier one. The least counts. */
function readCombined(value: string): { remaining: number | undefined; resetMs: number | undefined } {
  let least: { remaining: number | undefined; resetMs: number | undefined } = {
    remaining: undefined,
    resetMs: undefined,
  }
  const isOld = /\bremaining\s*=/.test(value)
  for (const policy of isOld ? [value] : value.split(',')) {
    const found = new Map(
      policy.split(/[;,]/).map((part) => {
        const [name = '', number = ''] = part.split('=', 2)
        return [name.trim().toLowerCase(), number.trim()]
      }),
    )
    const remaining = readRemaining(found.get(isOld ? 'remaining' : 'r') ?? '')
    if (remaining === undefined || remaining >= (least.remaining ?? Number.POSITIVE_INFINITY)) continue
    const seconds = readRemaining(found.get(isOld ? 'reset' : 't') ?? '')
    least = { remaining, resetMs: seconds === undefined ? undefined : clampWait(seconds * 1_000) }
  }
  return least
}

function clampWait(ms: number): number {
  return Math.min(Math.max(0, Math.ceil(ms)), MAX_WAIT_MS)
}

/** A header given twice contradicts itself: it says nothing. */
function textOf(header: string | readonly string[] | undefined): string {
  return typeof header === 'string' ? header.trim() : ''
}
