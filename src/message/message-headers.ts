import { below, invalid } from './message-shape.ts'
import { lineFault } from './message-text.ts'

const MAX_NAME_CHARS = 76
const MAX_VALUE_CHARS = 4_000

/**
 * RFC 5322 section 3.6.8 allows every printable character but the colon; this leaves out the brackets, quotes and
 * separators among them, which no header in use has and which some parsers take for the end of the name.
 */
const FIELD_NAME = /^[\w!#$%&'*+.^`|~-]+$/

/** Headers that have a field of their own. */
const FIELD_FOR_HEADER: ReadonlyMap<string, string> = new Map([
  ['from', 'from'],
  ['to', 'to'],
  ['cc', 'cc'],
  ['bcc', 'bcc'],
  ['reply-to', 'reply_to'],
  ['subject', 'subject'],
])

/** Headers that belong to the composer, to the signer or to the servers on the way; a forged one misleads them. */
const RESERVED =
  /^(?:sender|return-path|received|mime-version|message-id|date|authentication-results|(?:dkim|arc|content|resent|x-sluice)-.*)$/

/** Checks and trims the headers a caller adds, names in the caller's spelling. Throws a `Refusal`. */
export function readHeaders(headers: Record<string, string> = {}): Record<string, string> {
  const read: Record<string, string> = {}
  const seen = new Set<string>()
  for (const [name, value] of Object.entries(headers)) {
    checkName(name, seen)
    read[name] = readValue(name, value)
  }
  return read
}

function checkName(name: string, seen: Set<string>): void {
  if (name.length > MAX_NAME_CHARS) {
    throw wrong(name, `its name is ${name.length} characters long; use at most ${MAX_NAME_CHARS}`)
  }
  if (!FIELD_NAME.test(name)) {
    throw wrong(name, 'this is not a header name; use ASCII letters, digits and `-`, as in `X-Order`')
  }
  const lower = name.toLowerCase()
  const ownField = FIELD_FOR_HEADER.get(lower)
  if (ownField !== undefined)
    throw wrong(name, `this header cannot be set here; use the field \`${ownField}\``)
  if (RESERVED.test(lower))
    throw wrong(name, 'the service or the servers on the way write this header; use another name')
  if (seen.has(lower)) throw wrong(name, 'this header is given twice, in different case; use one of them')
  seen.add(lower)
}

function readValue(name: string, value: string): string {
  const fault = lineFault(value)
  if (fault !== undefined) throw wrong(name, `${fault}; use a single line of text`)
  if (value.length > MAX_VALUE_CHARS) {
    throw wrong(name, `it is ${value.length} characters long; use at most ${MAX_VALUE_CHARS}`)
  }
  const trimmed = value.trim()
  if (trimmed === '') throw wrong(name, 'it is empty; use some text, or leave the header out')
  return trimmed
}

function wrong(name: string, rest: string): Error {
  return invalid(below('headers', name), rest)
}
