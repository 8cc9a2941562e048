import type { Context, Next } from 'hono'
import { createMiddleware } from 'hono/factory'
import type { Database } from '../db/pool.ts'
import { ApiError } from '../errors.ts'
import type { AuthEnv } from './auth.ts'
import { type RequestTokens, takeRequestTokens } from './key-queries.ts'

/**
 * The rate limits of keys. The buckets are rows that all processes share; requests that arrive while one statement
 * is under way gather for the next, whatever their keys, so that there is never more than one. Keys without
 * a limit pay nothing.
 */

/** One call with thousands of messages, paced by the providers and not by the caller. */
const UNTHROTTLED = { method: 'POST', path: '/emails/bulk' }

/** What one request was told. */
type Turn = {
  readonly isGranted: boolean
  /** Null: the key has no limit any more. */
  readonly quota: number | null
  readonly remaining: number
  readonly resetS: number
  readonly retryAfterS: number
}

export class RequestRates {
  readonly #db: Database
  #waiting = new Map<string, PromiseWithResolvers<Turn>[]>()
  #isTaking = false

  constructor(db: Database) {
    this.#db = db
  }

  take(keyId: string): Promise<Turn> {
    const turn = Promise.withResolvers<Turn>()
    const waiting = this.#waiting.get(keyId)
    if (waiting === undefined) this.#waiting.set(keyId, [turn])
    else waiting.push(turn)
    if (!this.#isTaking) void this.#takeAll()
    return turn.promise
  }

  async #takeAll(): Promise<void> {
    this.#isTaking = true
    while (this.#waiting.size > 0) {
      const asking = this.#waiting
      this.#waiting = new Map()
      try {
        const wants = [...asking].map(([keyId, turns]) => ({ keyId, want: turns.length }))
        for (const tokens of await takeRequestTokens(this.#db, wants)) {
          handOut(tokens, asking.get(tokens.key_id) ?? [])
        }
      } catch (error) {
        for (const turn of [...asking.values()].flat()) turn.reject(error)
      }
    }
    this.#isTaking = false
  }
}

/** First come, first served; each is told what was left after it. */
function handOut(tokens: RequestTokens, turns: readonly PromiseWithResolvers<Turn>[]): void {
  for (const [index, turn] of turns.entries()) {
    turn.resolve({
      isGranted: index < tokens.granted,
      quota: tokens.quota,
      remaining: (tokens.remaining ?? 0) + Math.max(tokens.granted - index - 1, 0),
      resetS: tokens.reset_s ?? 0,
      retryAfterS: tokens.retry_after_s ?? 1,
    })
  }
}

/** Lets a key with a rate limit make so many requests, and tells it how many are left (headers as Resend's). */
export function limitRequests(rates: RequestRates) {
  return createMiddleware<AuthEnv>(function limitRequestsOfKey(c, next) {
    const { keyId, rate_limit_per_s: perS } = c.get('caller')
    return perS === null || isUnthrottled(c) ? next() : passInTurn(c, next, { rates, keyId, perS })
  })
}

type Limited = { readonly rates: RequestRates; readonly keyId: string; readonly perS: number }

async function passInTurn(c: Context, next: Next, { rates, keyId, perS }: Limited): Promise<void> {
  const turn = await rates.take(keyId)
  if (turn.quota === null) return next()
  if (!turn.isGranted) {
    for (const [name, value] of headersOf(turn)) c.header(name, value)
    throw new ApiError(
      'rate_limit_exceeded',
      `Too many requests: this API key may make ${perS} a second. Repeat the request after the seconds in \`retry-after\`.`,
      { retryAfterS: turn.retryAfterS },
    )
  }
  await next()
  for (const [name, value] of headersOf(turn)) c.res.headers.set(name, value)
}

function headersOf({ quota, remaining, resetS }: Turn): [name: string, value: string][] {
  return [
    ['ratelimit-limit', String(quota)],
    ['ratelimit-remaining', String(remaining)],
    ['ratelimit-reset', String(resetS)],
  ]
}

function isUnthrottled(c: Context): boolean {
  return c.req.method === UNTHROTTLED.method && c.req.path === UNTHROTTLED.path
}
