import { isAscii, isUtf8 } from 'node:buffer'
import { ComposeError } from './compose-error.ts'
import { checkLine, encoded, isPlain } from './header-text.ts'
import type { ContentPiece } from './mail-content.ts'
import { isSevenBit } from './text-part.ts'

/** An attachment with its bytes. */
export type OutgoingAttachment = {
  readonly filename: string
  /** A media type, with parameters where it has any. */
  readonly contentType: string
  /** What a `cid:` link in the HTML means, without angle brackets. */
  readonly contentId?: string
  readonly content: Buffer
}

/** RFC 2045 section 5.1: tokens, and parameters that are tokens or plain quoted strings. */
const TYPE = /^([\w!#$%&'*+.^`{|}~-]+)\/([\w!#$%&'*+.^`{|}~-]+)$/
const PARAMETER = /^([\w!#$%&'*+.^`{|}~-]+)=([\w!#$%&'*+.^`{|}~-]+|"[ !#-[\]-~]*")$/
const MAX_TYPE_CHARS = 255
const UNKNOWN_TYPE = 'application/octet-stream'
/** It is one line: nothing folds inside quotes. */
const MAX_PLAIN_NAME_CHARS = 255
/** RFC 2392: what is between the angle brackets. Most senders leave out the `@`, and every reader takes it so. */
const CONTENT_ID = /^[!-;=?-~]{1,250}$/
/** RFC 2231 section 3: of one continuation, percent signs included, so that its line stays below 78. */
const CONTINUATION_CHARS = 60

/**
 * One part of a mail. Bytes go as base64, text included: an attachment arrives byte for byte. An attached mail must not
 * be encoded (RFC 2046 section 5.2.1), so it goes as it is where every relay would leave it as it is, and as a file of no
 * known type otherwise; so does anything else that must not be encoded.
 *
 * @throws ComposeError when a name, type or id holds what could start another header
 */
export function attachmentPart(attachment: OutgoingAttachment, isInline: boolean): ContentPiece[] {
  const { filename, contentType, contentId, content } = attachment
  checkLine('Content-Disposition', filename)
  const { type, parameters } = readType(contentType)
  const isComposite = /^(?:multipart|message)\//.test(type)
  const asIs = type === 'message/rfc822' ? sevenBitText(content) : undefined
  const shownType =
    isComposite && asIs === undefined
      ? UNKNOWN_TYPE
      : [type, ...withCharset(type, parameters, content)].join('; ')
  const lines = [
    `Content-Type: ${shownType}${legacyName(filename)}`,
    `Content-Transfer-Encoding: ${asIs === undefined ? 'base64' : '7bit'}`,
    `Content-Disposition: ${isInline ? 'inline' : 'attachment'}${fileName(filename)}`,
    ...(contentId === undefined ? [] : [`Content-ID: <${checkedContentId(contentId)}>`]),
  ]
  return [`${lines.join('\r\n')}\r\n\r\n`, asIs ?? content]
}

/** As text when nothing between here and the reader has a reason to change a byte of it. */
function sevenBitText(content: Buffer): string | undefined {
  if (!isAscii(content)) return undefined
  const text = content.toString('latin1')
  return /\r(?!\n)|(?<!\r)\n/.test(text) || !isSevenBit(text) ? undefined : text
}

/** Without a charset, text would be read as ASCII (RFC 2046 section 4.1.2); it is named where it can be known. */
function withCharset(type: string, parameters: readonly string[], content: Buffer): readonly string[] {
  const isKnown = parameters.some((each) => each.toLowerCase().startsWith('charset='))
  if (isKnown || !type.startsWith('text/') || isAscii(content) || !isUtf8(content)) return parameters
  return [...parameters, 'charset=utf-8']
}

function readType(contentType: string): { readonly type: string; readonly parameters: readonly string[] } {
  const [type = '', ...rest] = contentType.split(';').map((each) => each.trim())
  const parameters = rest.filter((each) => !/^(?:name|boundary)\*?=/i.test(each))
  const isWellFormed = TYPE.test(type) && parameters.every((each) => PARAMETER.test(each))
  if (contentType.length > MAX_TYPE_CHARS || !isWellFormed) {
    throw new ComposeError('bad_content_type', 'Content-Type', 'it is not a media type')
  }
  return { type: type.toLowerCase(), parameters }
}

function checkedContentId(contentId: string): string {
  if (CONTENT_ID.test(contentId)) return contentId
  throw new ComposeError(
    'unsafe_header',
    'Content-ID',
    'it has a character that is not allowed, or is too long',
  )
}

/** Not standard, and what readers go by which do not know RFC 2231: the name as it is, or as encoded words. */
function legacyName(name: string): string {
  const shown = isPlainName(name) ? name : encoded(name).replaceAll(' ', '\r\n ')
  return `;\r\n name="${shown}"`
}

/** RFC 2183, and RFC 2231 for a name that cannot stand as it is. */
function fileName(name: string): string {
  if (isPlainName(name)) return `;\r\n filename="${name}"`
  const pieces = percentEncoded(name)
  if (pieces.length === 1) return `;\r\n filename*=utf-8''${pieces[0]}`
  return pieces
    .map((piece, index) => `;\r\n filename*${index}*=${index === 0 ? "utf-8''" : ''}${piece}`)
    .join('')
}

/** Some readers take no notice of a backslash before a quote, so a name with either is encoded as well. */
function isPlainName(name: string): boolean {
  return name.length <= MAX_PLAIN_NAME_CHARS && isPlain(name) && !/["\\]/.test(name)
}

/** Cut between characters: readers may decode each piece by itself. */
function percentEncoded(name: string): readonly string[] {
  const pieces: string[] = []
  let piece = ''
  for (const character of name) {
    const text = encodeURIComponent(character).replace(
      /[!'()*]/g,
      (each) => `%${each.charCodeAt(0).toString(16)}`,
    )
    if (piece.length + text.length > CONTINUATION_CHARS) {
      pieces.push(piece)
      piece = ''
    }
    piece += text
  }
  return [...pieces, piece]
}
