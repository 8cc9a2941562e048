/** Readers for what strangers wrote: each takes anything, and none of them throws. */

/** The value, or undefined when the bytes are not JSON. */
export function readJson(body: Buffer | string): unknown {
  try {
    return JSON.parse(body.toString())
  } catch {
    // A SyntaxError, or a RangeError for nesting without end: either way it cannot be read.
    return undefined
  }
}

/** The value at a path of own properties, or undefined. */
export function field(value: unknown, ...path: readonly string[]): unknown {
  let at = value
  for (const name of path) {
    if (typeof at !== 'object' || at === null || !Object.hasOwn(at, name)) return undefined
    at = (at as Record<string, unknown>)[name]
  }
  return at
}

/** Longest text that is kept of a report; URLs and replies beyond it are cut. */
const MAX_TEXT_CHARS = 1_000

/** A text or number as clean, short text that every column takes; undefined for the rest, and for nothing. */
export function textOf(value: unknown, maxChars: number = MAX_TEXT_CHARS): string | undefined {
  if (typeof value === 'number' && Number.isFinite(value)) return String(value)
  if (typeof value !== 'string') return undefined
  const clean = value
    .slice(0, maxChars)
    .toWellFormed()
    .replace(/\p{Cc}+/gu, ' ')
    .trim()
  return clean === '' ? undefined : clean
}

export function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : []
}
