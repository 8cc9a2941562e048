/** The most events in any half-open stretch of `windowMs`, of times in milliseconds in any order. */
export function mostInWindow(times: readonly number[], windowMs: number): number {
  const sorted = times.toSorted((a, b) => a - b)
  let most = 0
  let start = 0
  for (const [end, time] of sorted.entries()) {
    while (time - (sorted[start] ?? time) >= windowMs) start += 1
    most = Math.max(most, end - start + 1)
  }
  return most
}

/** Events a second from the first one that is `afterMs` later than the first of all, to the last. */
export function ratePerS(times: readonly number[], afterMs: number): number {
  const sorted = times.toSorted((a, b) => a - b)
  const steady = sorted.filter((time) => time - (sorted[0] ?? 0) >= afterMs)
  const lengthMs = (steady.at(-1) ?? 0) - (steady[0] ?? 0)
  return ((steady.length - 1) / lengthMs) * 1_000
}
