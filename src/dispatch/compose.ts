import * as base64 from 'nodemailer/lib/base64'
import { encodeWord, foldLines, quoteString } from 'nodemailer/lib/mime-funcs'
import * as qp from 'nodemailer/lib/qp'
import type { Address } from '../message.ts'
import { lineFault } from '../message-text.ts'
import { isWireAddress } from './transport.ts'

/** All that goes into a mail. There is no Bcc: those recipients are on the envelope only. */
export type OutgoingMail = {
  /** The message's UUID, sent as `X-Sluice-Id` so that feedback can be matched to it. */
  readonly id: string
  /** With its angle brackets; the same on every attempt. */
  readonly messageId: string
  readonly date: Date
  readonly from: Address
  readonly to: readonly Address[]
  readonly cc: readonly Address[]
  readonly replyTo: readonly Address[]
  readonly subject: string
  readonly html?: string
  readonly text?: string
  readonly headers: Readonly<Record<string, string>>
}

export type ComposeFault = 'unsafe_header' | 'reserved_header' | 'bad_address' | 'bad_message_id' | 'bad_date'

/** A mail that must not be composed. Intake and processing refuse such mail, so this means that a check is missing. */
export class ComposeError extends Error {
  readonly code: ComposeFault
  /** The header that cannot be written. */
  readonly header: string
  readonly retryable = false

  constructor(code: ComposeFault, header: string, reason: string) {
    super(`The header ${JSON.stringify(header)} cannot be written: ${reason}.`)
    this.name = 'ComposeError'
    this.code = code
    this.header = header
  }
}

/**
 * The whole message (RFC 5322, MIME per RFC 2045-2047): ASCII, CRLF line ends, no line over 998 bytes, ready for DATA
 * except for dot-stuffing. The same mail gives the same bytes, so every attempt sends the same message.
 *
 * One string and one copy, without streams: this runs once for every mail.
 *
 * @throws ComposeError when a header holds what could start another header, or takes the place of one of ours
 */
export function composeMail(mail: OutgoingMail): Buffer {
  return Buffer.from(headerBlock(mail) + bodyBlock(mail), 'latin1')
}

/** RFC 5322 section 2.1.1, without the CRLF. */
const MAX_LINE_CHARS = 998
const FOLD_AT_CHARS = 76
/** Nothing folds inside a word, so a longer one would make a line that relays cut; 998 less room for the name. */
const MAX_WORD_CHARS = 900
/** RFC 2047 section 2 allows 75; shorter ones leave room for a header's name. */
const ENCODED_WORD_CHARS = 52

const MESSAGE_ID = /^<[!-;=?-~]{1,400}@[!-;=?-~]{1,400}>$/
const HEADER_NAME = /^[!-9;-~]{1,76}$/
const OUR_ID = /^[\dA-Za-z-]{1,64}$/
/** Headers a message may not bring: ours, the transport's and those that say who sent it and to whom. */
const RESERVED_HEADER =
  /^(?:from|to|cc|bcc|sender|subject|date|message-id|return-path|received|mime-version|x-sluice-id|(?:content|dkim|resent)-.*)$/i

function headerBlock(mail: OutgoingMail): string {
  const to = mail.to.length + mail.cc.length === 0 ? 'undisclosed-recipients:;' : addressList('To', mail.to)
  let block = headerLine('From', addressList('From', [mail.from]))
  if (to !== '') block += headerLine('To', to)
  if (mail.cc.length > 0) block += headerLine('Cc', addressList('Cc', mail.cc))
  if (mail.replyTo.length > 0) block += headerLine('Reply-To', addressList('Reply-To', mail.replyTo))
  block += headerLine('Subject', headerText('Subject', mail.subject))
  block += identityLines(mail)
  for (const [name, value] of Object.entries(mail.headers)) {
    block += headerLine(checkedName(name, mail), headerText(name, value))
  }
  return block
}

function identityLines({ messageId, date, id }: OutgoingMail): string {
  if (!MESSAGE_ID.test(messageId)) {
    throw new ComposeError('bad_message_id', 'Message-ID', 'it is not an id in angle brackets')
  }
  if (Number.isNaN(date.getTime())) throw new ComposeError('bad_date', 'Date', 'it is not a date')
  if (!OUR_ID.test(id)) throw new ComposeError('unsafe_header', 'X-Sluice-Id', 'it is not an id')
  // RFC 5322 section 3.3 has no zone name any more; "GMT" is its obsolete form.
  const sentAt = date.toUTCString().replace('GMT', '+0000')
  return `Message-ID: ${messageId}\r\nDate: ${sentAt}\r\nX-Sluice-Id: ${id}\r\nMIME-Version: 1.0\r\n`
}

/** `value` is ASCII without a line break; folding puts one only where there is a space. */
function headerLine(name: string, value: string): string {
  const line = value === '' ? `${name}:` : `${name}: ${value}`
  return line.length <= FOLD_AT_CHARS ? `${line}\r\n` : `${foldLines(line, FOLD_AT_CHARS)}\r\n`
}

function checkedName(name: string, mail: OutgoingMail): string {
  if (!HEADER_NAME.test(name)) {
    throw new ComposeError('unsafe_header', name, 'its name has a character that is not allowed')
  }
  const taken = mail.replyTo.length > 0 && name.toLowerCase() === 'reply-to'
  if (taken || RESERVED_HEADER.test(name)) {
    throw new ComposeError('reserved_header', name, 'it would stand beside one that Sluice writes')
  }
  return name
}

function addressList(header: string, addresses: readonly Address[]): string {
  return addresses.map((address) => mailbox(header, address)).join(', ')
}

function mailbox(header: string, { address, name }: Address): string {
  if (!isWireAddress(address)) {
    throw new ComposeError('bad_address', header, 'an address in it is not a plain `local@domain`')
  }
  if (name === undefined || name === '') return address
  if (/^\w+(?: \w+)*$/.test(name) && isPlain(name)) return `${name} <${address}>`
  checkLine(header, name)
  // Inside quotes an encoded word would stay as it is (RFC 2047 section 5), so a name is either quoted or encoded.
  return `${isPlain(name) ? quoteString(name) : encoded(name)} <${address}>`
}

/** Text as a reader will see it, encoded (RFC 2047) when it cannot stand as it is. */
function headerText(header: string, value: string): string {
  if (value === '') return ''
  checkLine(header, value)
  return isPlain(value) ? value : encoded(value)
}

function checkLine(header: string, value: string): void {
  const fault = lineFault(value)
  if (fault !== undefined) throw new ComposeError('unsafe_header', header, fault)
}

/**
 * Whether a value comes back unchanged from folding and decoding: printable ASCII, single spaces between words (a run of
 * them could fold into a line of blanks), nothing a lenient reader takes for an encoded word, no endless word.
 */
function isPlain(value: string): boolean {
  if (!/^[!-~]+(?: [!-~]+)*$/.test(value)) return false
  if (value.includes('=?') && /=\?[^?]*\?[bq]\?[^?]*\?=/i.test(value)) return false
  return value.length <= MAX_WORD_CHARS || value.split(' ').every((word) => word.length <= MAX_WORD_CHARS)
}

function encoded(value: string): string {
  return encodeWord(value, isMostlyNonAscii(value, Buffer.byteLength(value)) ? 'B' : 'Q', ENCODED_WORD_CHARS)
}

function bodyBlock({ id, html, text }: OutgoingMail): string {
  // `=_` cannot occur in quoted-printable or base64, and a part sent as it is gets checked for the boundary.
  const boundary = `=_sluice_${id}`
  if (html === undefined) return closed(bodyPart('text/plain', text ?? '', boundary))
  if (text === undefined) return closed(bodyPart('text/html', html, boundary))
  // RFC 2046 section 5.1.4: the richest form goes last.
  return (
    `Content-Type: multipart/alternative;\r\n boundary="${boundary}"\r\n\r\n` +
    `--${boundary}\r\n${bodyPart('text/plain', text, boundary)}\r\n` +
    `--${boundary}\r\n${bodyPart('text/html', html, boundary)}\r\n--${boundary}--\r\n`
  )
}

function closed(part: string): string {
  return part.endsWith('\r\n') ? part : `${part}\r\n`
}

function bodyPart(type: 'text/plain' | 'text/html', content: string, boundary: string): string {
  const body = content.replace(/\r\n|\r|\n/g, '\r\n')
  const [encoding, encodedBody] = encodeBody(body, boundary)
  return `Content-Type: ${type}; charset=utf-8\r\nContent-Transfer-Encoding: ${encoding}\r\n\r\n${encodedBody}`
}

function encodeBody(
  body: string,
  boundary: string,
): readonly ['7bit' | 'quoted-printable' | 'base64', string] {
  const bytes = Buffer.byteLength(body)
  if (bytes === body.length && isSevenBit(body) && !body.includes(boundary)) return ['7bit', body]
  if (isMostlyNonAscii(body, bytes)) return ['base64', base64.wrap(base64.encode(body))]
  return ['quoted-printable', qp.wrap(qp.encode(body))]
}

/**
 * Above about a quarter of the bytes outside ASCII, quoted-printable (three bytes for one) is half as long again as
 * base64 (four for three). Such a character brings at least half of its bytes more than `length` counts.
 */
function isMostlyNonAscii(text: string, bytes: number): boolean {
  return (bytes - text.length) * 8 > bytes
}

/** RFC 2045 section 2.7, for a body known to be ASCII with CRLF line ends. */
function isSevenBit(body: string): boolean {
  if (/[^\t\r\n -~]/.test(body)) return false
  let start = 0
  // By hand: a pattern for 999 characters without a line end would look at each of them 999 times.
  while (start < body.length) {
    const end = body.indexOf('\r\n', start)
    if ((end < 0 ? body.length : end) - start > MAX_LINE_CHARS) return false
    start = end < 0 ? body.length : end + 2
  }
  return true
}

/**
 * The message as it goes over the wire, dot-stuffed and ended (RFC 5321 section 4.5.2), in one piece so that it is one
 * write. Undefined for a message with a bare CR or LF, which servers may read as a line end, and so as the end of the
 * message and the start of a smuggled one.
 */
export function wireForm(raw: Buffer): Buffer | undefined {
  const text = raw.toString('latin1')
  if (!text.endsWith('\r\n') || /\r(?!\n)|(?<!\r)\n/.test(text)) return undefined
  const stuffed = text.replaceAll('\r\n.', '\r\n..')
  return Buffer.from(`${stuffed.startsWith('.') ? '.' : ''}${stuffed}.\r\n`, 'latin1')
}
