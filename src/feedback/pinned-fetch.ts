import { GuardedFetchError, type GuardedFetchOptions, guardedFetch } from '../network/guarded-fetch.ts'

/**
 * GET for the few addresses that we make ourselves from pinned parts: https on its own port, at public addresses.
 * Follows no redirect, reads no more than it was told to, and never rejects.
 */
export type PinnedFetch = (url: string, limits: FetchLimits) => Promise<Fetched>

export type FetchLimits = { readonly maxBytes: number; readonly timeoutMs: number }

export type Fetched =
  | { readonly kind: 'answered'; readonly status: number; readonly body: string }
  /** It answered, and with nothing that can be used: a redirect, no HTTP, or more than was allowed. */
  | { readonly kind: 'unusable'; readonly error: unknown }
  | { readonly kind: 'unreachable'; readonly error: unknown }

/** `opened` is for tests, whose host is on loopback. */
export function createPinnedFetch(
  opened: Pick<GuardedFetchOptions, 'lookup' | 'allowPrivate' | 'ports' | 'allowHttp'> = {},
): PinnedFetch {
  return async (url, limits) => {
    try {
      const { status, body } = await guardedFetch(url, { ports: [443], ...opened, ...limits })
      return { kind: 'answered', status, body: body.toString('utf8') }
    } catch (error) {
      const isAnswer = error instanceof GuardedFetchError && ANSWERS.has(error.code)
      return { kind: isAnswer ? 'unusable' : 'unreachable', error }
    }
  }
}

const ANSWERS: ReadonlySet<string> = new Set(['answer_refused', 'answer_too_large'])
