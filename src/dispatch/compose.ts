import { quoteString } from 'nodemailer/lib/mime-funcs'
import type { Address } from '../message/message.ts'
import { attachmentPart, type OutgoingAttachment } from './mime/attachment-part.ts'
import { boundaryOf } from './mime/boundary.ts'
import { ComposeError } from './mime/compose-error.ts'
import { checkLine, encoded, headerLine, headerText, isPlain } from './mime/header-text.ts'
import { type ContentPiece, MailContent } from './mime/mail-content.ts'
import { textPart } from './mime/text-part.ts'
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
  /** In the order they are shown. */
  readonly attachments?: readonly OutgoingAttachment[]
}

/**
 * The whole message (RFC 5322, MIME per RFC 2045-2047 and 2231): ASCII, CRLF line ends, no line over 998 bytes, ready for
 * DATA except for dot-stuffing. The same mail gives the same bytes, so every attempt sends the same message.
 *
 * One string, without streams, for a mail without attachments: this runs once for every mail.
 *
 * @throws ComposeError when a header holds what could start another header, or takes the place of one of ours
 */
export function composeMail(mail: OutgoingMail): MailContent {
  const body = bodyOf(mail)
  return new MailContent([headerBlock(mail), ...body, ...(endsLine(body) ? [] : ['\r\n'])])
}

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

/**
 * The body: text beside HTML, around the HTML what it shows by `cid:`, and around all that the attachments. RFC 2046
 * section 5.1.4: the richest form goes last.
 */
function bodyOf(mail: OutgoingMail): readonly ContentPiece[] {
  const { id, html, text, attachments = [] } = mail
  const isInline = (each: OutgoingAttachment) => html !== undefined && each.contentId !== undefined
  const inline = attachments.filter(isInline).map((each) => attachmentPart(each, true))
  const files = attachments.filter((each) => !isInline(each)).map((each) => attachmentPart(each, false))
  const plain = html === undefined || text !== undefined ? [[textPart('text/plain', text ?? '')]] : []
  const rich = html === undefined ? [] : [related(id, [textPart('text/html', html)], inline)]
  const body = oneOf('alternative', id, [...plain, ...rich])
  return files.length === 0 ? body : multipart('mixed', id, [body, ...files])
}

type Part = readonly ContentPiece[]

function related(id: string, html: Part, inline: readonly Part[]): Part {
  return inline.length === 0 ? html : multipart('related', id, [html, ...inline], ' type="text/html";\r\n')
}

function oneOf(kind: 'alternative', id: string, parts: readonly Part[]): Part {
  const [only = [], ...others] = parts
  return others.length === 0 ? only : multipart(kind, id, parts)
}

function multipart(
  kind: 'alternative' | 'mixed' | 'related',
  id: string,
  parts: readonly Part[],
  parameters = '',
): Part {
  const boundary = boundaryOf(kind, id)
  return [
    `Content-Type: multipart/${kind};\r\n${parameters} boundary="${boundary}"\r\n\r\n`,
    ...parts.flatMap((part) => [`--${boundary}\r\n`, ...part, '\r\n']),
    `--${boundary}--`,
  ]
}

function endsLine(part: Part): boolean {
  const last = part.at(-1)
  return typeof last === 'string' && last.endsWith('\r\n')
}
