/** How long to wait between attempts; `factor` is how much longer each wait may be than the one before it. */
export type BackoffPolicy = { readonly baseMs: number; readonly factor: number; readonly capMs: number }

/**
 * Milliseconds to wait after the failed attempt number `attempt` (from 1): exponential with full jitter, a point
 * anywhere below `min(capMs, baseMs * factor ** (attempt - 1))`, so that messages that failed together do not come
 * back together (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog).
 *
 * Unlike the original it never falls below half of `baseMs` (or half of `capMs`, if that is less): the original's delays
 * near zero would spend the few attempts a message has on one and the same moment of trouble.
 *
 * `random` returns a number in [0, 1), as `Math.random` does.
 */
export function retryDelayMs(policy: BackoffPolicy, attempt: number, random: () => number): number {
  // A huge exponent is Infinity, which the cap brings back to a number.
  const ceiling = Math.min(policy.capMs, policy.baseMs * policy.factor ** (Math.max(attempt, 1) - 1))
  const floor = Math.min(policy.baseMs / 2, policy.capMs / 2, ceiling)
  return Math.max(1, Math.round(floor + random() * (ceiling - floor)))
}
