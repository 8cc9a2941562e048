const SECONDS_IN: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3_600, d: 86_400, w: 604_800 }
const DAY = /^\d{4}-\d{2}-\d{2}$/

/** Seconds in `45s`, `30m`, `24h`, `90d` or `2w`; undefined for any other text. */
export function readDurationS(text: string): number | undefined {
  const [, amount = '', unit = ''] = /^(\d{1,6})([smhdw])$/.exec(text) ?? []
  const seconds = SECONDS_IN[unit]
  return seconds === undefined ? undefined : Number(amount) * seconds
}

/** A time from now, or a day (UTC), as ISO 8601; any other text as it is. */
export function readTime(text: string, now: number): string {
  const seconds = readDurationS(text)
  if (seconds !== undefined) return new Date(now + seconds * 1_000).toISOString()
  return DAY.test(text) ? `${text}T00:00:00Z` : text
}
