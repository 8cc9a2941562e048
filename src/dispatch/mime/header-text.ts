import { encodeWord, foldLines } from 'nodemailer/lib/mime-funcs'
import { hasEncodedWord, lineFault } from '../../message/message-text.ts'
import { ComposeError } from './compose-error.ts'

const FOLD_AT_CHARS = 76
/** Nothing folds inside a word, so a longer one would make a line that relays cut; 998 less room for the name. */
const MAX_WORD_CHARS = 900
/** RFC 2047 section 2 allows 75; shorter ones leave room for a header's name. */
const ENCODED_WORD_CHARS = 52

/** `value` is ASCII without a line break; folding puts one only where there is a space. */
export function headerLine(name: string, value: string): string {
  const line = value === '' ? `${name}:` : `${name}: ${value}`
  return line.length <= FOLD_AT_CHARS ? `${line}\r\n` : `${foldLines(line, FOLD_AT_CHARS)}\r\n`
}

/** Text as a reader will see it, encoded (RFC 2047) when it cannot stand as it is. */
export function headerText(header: string, value: string): string {
  if (value === '') return ''
  checkLine(header, value)
  return isPlain(value) ? value : encoded(value)
}

export function checkLine(header: string, value: string): void {
  const fault = lineFault(value)
  if (fault !== undefined) throw new ComposeError('unsafe_header', header, fault)
}

/**
 * Whether a value comes back unchanged from folding and decoding: printable ASCII, single spaces between words (a run of
 * them could fold into a line of blanks), nothing a lenient reader takes for an encoded word, no endless word.
 */
export function isPlain(value: string): boolean {
  if (!/^[!-~]+(?: [!-~]+)*$/.test(value)) return false
  if (hasEncodedWord(value)) return false
  return value.length <= MAX_WORD_CHARS || value.split(' ').every((word) => word.length <= MAX_WORD_CHARS)
}

/** One or more encoded words, with a space between them. */
export function encoded(value: string): string {
  return encodeWord(value, isMostlyNonAscii(value, Buffer.byteLength(value)) ? 'B' : 'Q', ENCODED_WORD_CHARS)
}

/**
 * Above about a quarter of the bytes outside ASCII, quoted-printable (three bytes for one) is half as long again as
 * base64 (four for three). Such a character brings at least half of its bytes more than `length` counts.
 */
export function isMostlyNonAscii(text: string, bytes: number): boolean {
  return (bytes - text.length) * 8 > bytes
}
