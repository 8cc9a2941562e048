import PostalMime, { decodeWords } from 'postal-mime'

/** What a list shows of a mail, read from its headers. */
export type MailSummary = {
  readonly subject: string | null
  readonly sender: string | null
  readonly messageId: string | null
}

/** Headers past this are not looked at; real ones stay under 20 KB. */
const MAX_HEADER_BYTES = 64 * 1024
/** RFC 5322 section 2.1.1: no line is longer, so neither is a subject that was not folded. */
const MAX_SHOWN_CHARS = 998

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i

/**
 * Makes any text fit to be stored and shown on one line. Postgres refuses NUL, and a lone surrogate has no
 * UTF-8 form.
 */
export function toSingleLine(text: string): string {
  return text
    .slice(0, MAX_SHOWN_CHARS)
    .replace(/\p{Cc}+/gu, ' ')
    .toWellFormed()
    .trim()
}

/** Subject, From and X-Sluice-Id of a mail. Never rejects: a mail nobody can read is still kept, untitled. */
export async function summarise(raw: Buffer): Promise<MailSummary> {
  const headers = await readHeaders(raw)
  const shown = (name: string) => {
    const value = headers.get(name)
    return value === undefined ? null : toSingleLine(decodeWords(value)) || null
  }
  const id = headers.get('x-sluice-id')?.trim() ?? ''
  return {
    subject: shown('subject'),
    sender: shown('from'),
    messageId: UUID.test(id) ? id.toLowerCase() : null,
  }
}

/** The first value of each header by its lower-case name, unfolded. */
async function readHeaders(raw: Buffer): Promise<ReadonlyMap<string, string>> {
  const values = new Map<string, string>()
  try {
    const { headers } = await PostalMime.parse(headerPart(raw))
    for (const { key, value } of headers) if (!values.has(key)) values.set(key, value)
  } catch {
    // The parser gives up on hostile input with plain errors; such a mail has no readable headers.
    values.clear()
  }
  return values
}

/** The bytes up to the first empty line, whichever line ends the mail uses, so that no body is parsed. */
function headerPart(raw: Buffer): Buffer {
  const head = raw.subarray(0, MAX_HEADER_BYTES)
  const ends = [head.indexOf('\r\n\r\n'), head.indexOf('\n\n')].filter((end) => end >= 0)
  return ends.length === 0 ? head : head.subarray(0, Math.min(...ends))
}
