/** Far beyond what anything takes: a slow machine is no failure. */
const DEADLINE_MS = 60_000
const PAUSE_MS = 20

/**
 * Looks again and again until `look` returns something other than undefined, false or null, and returns that. For
 * what only the database knows; rejects at the deadline with the last thing seen.
 */
export async function eventually<T>(
  what: string,
  look: () => Promise<T | undefined | false | null>,
  deadlineMs: number = DEADLINE_MS,
): Promise<T> {
  const until = Date.now() + deadlineMs
  for (;;) {
    const seen = await look()
    if (seen !== undefined && seen !== false && seen !== null) return seen
    if (Date.now() > until) throw new Error(`not within ${deadlineMs} ms: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS))
  }
}
