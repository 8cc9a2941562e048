/** Longest piece of a caller's own text that is ever repeated back. */
const MAX_EXCERPT_CHARS = 60

/** Most names, keys and header values: one look instead of four. */
const PRINTABLE_ASCII = /^[ -~]*$/

/** C0, DEL and C1 controls, and the two Unicode line separators that some software breaks lines at. */
const CONTROL = /[\p{Cc}\u2028\u2029]/u
const EVERY_CONTROL = /[\p{Cc}\u2028\u2029]/gu

/** Text that no rule here can object to, and of which every character is one byte; quick for short text. */
export function isPrintableAscii(value: string): boolean {
  return PRINTABLE_ASCII.test(value)
}

/**
 * Why a text cannot be stored, or undefined when it can. Postgres keeps neither NUL nor a lone surrogate in
 * jsonb, so one such character would otherwise fail the whole batch it is inserted with.
 */
export function textFault(value: string): string | undefined {
  if (value.includes('\0')) return 'it contains a NUL character'
  if (!value.isWellFormed()) return 'it contains half of a surrogate pair, which is not valid Unicode'
  return undefined
}

/**
 * Why a text cannot stand in a mail header, or undefined when it can. A line break would end the header and start
 * one of the writer's choosing; the other controls, tab included, are refused because relays disagree on them.
 */
export function lineFault(value: string): string | undefined {
  if (isPrintableAscii(value)) return undefined
  const fault = textFault(value)
  if (fault !== undefined) return fault
  if (!CONTROL.test(value)) return undefined
  return /[\r\n\u0085\u2028\u2029]/.test(value)
    ? 'it contains a line break'
    : 'it contains a tab or another control character'
}

/** Whether some reader of mail would decode a part of it (RFC 2047 section 2), wherever it stands. */
export function hasEncodedWord(value: string): boolean {
  return value.includes('=?') && /=\?[^?]*\?[bq]\?[^?]*\?=/i.test(value)
}

/** A caller's text made short, and safe to print, log and store, so that a complaint can quote it. */
export function excerpt(value: string): string {
  const short = value.length > MAX_EXCERPT_CHARS ? `${value.slice(0, MAX_EXCERPT_CHARS)}…` : value
  return short.toWellFormed().replace(EVERY_CONTROL, '\ufffd')
}
