/** What one request to an endpoint came to. */
export type Answer = {
  /** Of the answer; null when there was none that can be used. */
  readonly status: number | null
  /** The beginning of the answer's body. */
  readonly response: string | null
  /** Why there was no usable answer. */
  readonly error: string | null
  /** We stopped while it was under way: nothing is known, and nothing is held against the endpoint. */
  readonly isAborted: boolean
}

export type Verdict = {
  readonly state: 'success' | 'attempting' | 'failed'
  /** Until the next attempt; null when there is none. */
  readonly delayMs: number | null
  /** The endpoint says that it wants no more. */
  readonly isGone: boolean
}

const S = 1_000
const MIN = 60 * S
const HOUR = 60 * MIN

/** After the first attempt, the second …: the schedule of Svix and of the Standard Webhooks guide, over a good day. */
export const RETRY_DELAYS_MS = [5 * S, 5 * MIN, 30 * MIN, 2 * HOUR, 5 * HOUR, 10 * HOUR, 10 * HOUR] as const

/** Longer by up to so much, so that what failed together does not come back together. */
const JITTER = 0.2

/** What an answer to attempt number `tries + 1` means. Any 2xx is a success, 410 ends the endpoint. */
export function judge({ status, isAborted }: Answer, tries: number, random: () => number): Verdict {
  if (isAborted) return { state: 'attempting', delayMs: 0, isGone: false }
  if (status !== null && status >= 200 && status < 300) {
    return { state: 'success', delayMs: null, isGone: false }
  }
  const delayMs = RETRY_DELAYS_MS[tries]
  if (status === 410 || delayMs === undefined) {
    return { state: 'failed', delayMs: null, isGone: status === 410 }
  }
  return { state: 'attempting', delayMs: Math.round(delayMs * (1 + JITTER * random())), isGone: false }
}
