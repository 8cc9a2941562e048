import { hash } from 'node:crypto'
import { detectMimeType } from 'nodemailer/lib/mime-funcs'
import { findListedHost, type ListedHost } from '../network/listed-hosts.ts'
import { decodeBase64 } from './base64.ts'
import { type Attachment, MAX_ATTACHMENTS_BYTES, type StoredAttachment } from './message.ts'
import { type AttachmentShape, invalidAttachment } from './message-shape.ts'
import { excerpt, hasEncodedWord, lineFault } from './message-text.ts'

const MAX_FILENAME_CHARS = 255
const MAX_PATH_CHARS = 2_048
/** RFC 6838 section 4.2. */
const CONTENT_TYPE = /^[a-z0-9][a-z0-9!#$&^_.+-]{0,126}\/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}$/
/** RFC 2045 section 5.1, tokens alone: `charset=utf-8`, or the `method=REQUEST` of an invitation. */
const TYPE_PARAMETER = /^[\w-]{1,40}=[\w!#$&'*+.^`{|}~-]{1,80}$/
/** What the composer writes itself. */
const OWN_PARAMETER = /^(?:name|boundary)=/i
const MAX_TYPE_PARAMETERS = 4
/** Types whose meaning depends on parts of their own, which a file does not have (RFC 2046 sections 5.1 and 5.2). */
const COMPOSITE = /^(?:multipart\/.*|message\/(?:partial|external-body))$/
const CONTENT_ID = /^[\w.@-]{1,128}$/
const UNKNOWN_TYPE = 'application/octet-stream'

/** Bytes that came with a message, to be stored under their hash. */
export type AttachmentContent = { readonly sha256: string; readonly bytes: Buffer }

export type ReadAttachments = {
  readonly attachments: readonly Attachment[]
  readonly contents: readonly AttachmentContent[]
}

/**
 * Reads and decodes the attachments of a message whose shape was found good. Throws a `Refusal`. The size of one
 * that is named by `sha256` is 0 here: only the database knows it.
 */
export function readAttachments(
  given: readonly AttachmentShape[],
  hosts: readonly ListedHost[],
): ReadAttachments {
  const contents: AttachmentContent[] = []
  const seenIds = new Set<string>()
  let left = MAX_ATTACHMENTS_BYTES
  const attachments = given.map((each, index): Attachment => {
    const field = `attachments[${index}]`
    const url = readSource(field, each, hosts)
    const filename = readFilename(field, each.filename ?? fileNameIn(url))
    const contentId = readContentId(field, each.content_id, seenIds)
    const described = {
      filename,
      content_type: readContentType(field, each.content_type, filename),
      ...(contentId !== undefined && { content_id: contentId }),
    }
    if (url !== undefined) return { ...described, path: url.href }
    if (each.content === undefined) return { ...described, sha256: each.sha256 ?? '', size: 0 }
    const content = readContent(field, each.content, left)
    left -= content.bytes.length
    contents.push(content)
    return { ...described, sha256: content.sha256, size: content.bytes.length }
  })
  return { attachments, contents }
}

export function isStored(attachment: Attachment): attachment is StoredAttachment {
  return 'sha256' in attachment
}

/** Exactly one place for the bytes; the URL when it is that. */
function readSource(field: string, given: AttachmentShape, hosts: readonly ListedHost[]): URL | undefined {
  const [source, second] = (['content', 'path', 'sha256'] as const).filter((key) => given[key] !== undefined)
  if (source === undefined) {
    throw invalidAttachment(`${field}.content`, 'there is neither `content` nor `path`; use one of them')
  }
  if (second !== undefined) {
    throw invalidAttachment(`${field}.${second}`, `\`${source}\` is there already; use only one of them`)
  }
  return source === 'path' ? readPath(`${field}.path`, given.path ?? '', hosts) : undefined
}

function readPath(field: string, path: string, hosts: readonly ListedHost[]): URL {
  if (hosts.length === 0) {
    throw invalidAttachment(
      field,
      'fetching by URL is off, as the setting SLUICE_ATTACHMENT_HOSTS lists no host; use `content`',
    )
  }
  if (path.length > MAX_PATH_CHARS) {
    throw invalidAttachment(field, `it is ${path.length} characters long; use at most ${MAX_PATH_CHARS}`)
  }
  const url = URL.parse(path)
  if (url === null)
    throw invalidAttachment(field, 'it is not a URL; use one like `https://example.com/a.pdf`')
  if (url.username !== '' || url.password !== '') {
    throw invalidAttachment(field, 'it has a user name or password; use a URL without')
  }
  if (findListedHost(hosts, url) === undefined) {
    const place = excerpt(`${url.protocol}//${url.host}`)
    throw invalidAttachment(
      field,
      `${place} is not among the hosts that the setting SLUICE_ATTACHMENT_HOSTS lists; use one of them, or \`content\``,
    )
  }
  url.hash = ''
  return url
}

/** The last segment of the path, as a person reads it. */
function fileNameIn(url: URL | undefined): string | undefined {
  const segment = url?.pathname.split('/').at(-1)
  if (segment === undefined || segment === '') return undefined
  try {
    return decodeURIComponent(segment)
  } catch {
    // Percent signs that encode nothing: taken as they stand.
    return segment
  }
}

function readFilename(field: string, name: string | undefined): string {
  const at = `${field}.filename`
  if (name === undefined) throw invalidAttachment(at, 'it is required; use a name like `invoice.pdf`')
  const fault = lineFault(name)
  if (fault !== undefined) throw invalidAttachment(at, `${fault}; use a single line of text`)
  const trimmed = name.trim()
  if (trimmed === '') throw invalidAttachment(at, 'it is empty; use a name like `invoice.pdf`')
  if (trimmed.length > MAX_FILENAME_CHARS) {
    throw invalidAttachment(at, `it is ${trimmed.length} characters long; use at most ${MAX_FILENAME_CHARS}`)
  }
  if (/[/\\]/.test(trimmed) || /^\.+$/.test(trimmed)) {
    throw invalidAttachment(at, `\`${excerpt(trimmed)}\` is a path; use the name of a file alone`)
  }
  if (hasEncodedWord(trimmed)) {
    // However it is encoded again, some readers decode it twice, and so into a path or a line break.
    throw invalidAttachment(
      at,
      `\`${excerpt(trimmed)}\` is encoded for a mail header (RFC 2047); use the name itself`,
    )
  }
  return trimmed
}

function readContentType(field: string, given: string | undefined, filename: string): string {
  if (given === undefined) {
    const guessed = detectMimeType(filename)
    return CONTENT_TYPE.test(guessed) && !COMPOSITE.test(guessed) ? guessed : UNKNOWN_TYPE
  }
  const [type = '', ...parameters] = given
    .split(';', MAX_TYPE_PARAMETERS + 2)
    .map((part, index) => (index === 0 ? part.trim().toLowerCase() : part.trim()))
  if (!CONTENT_TYPE.test(type)) {
    throw invalidAttachment(
      `${field}.content_type`,
      `\`${excerpt(given)}\` is not a type and a subtype; use one like \`application/pdf\``,
    )
  }
  const isParameter = (each: string) => TYPE_PARAMETER.test(each) && !OWN_PARAMETER.test(each)
  if (parameters.length > MAX_TYPE_PARAMETERS || !parameters.every(isParameter)) {
    throw invalidAttachment(
      `${field}.content_type`,
      `\`${excerpt(given)}\` has a parameter that cannot be used; use at most ${MAX_TYPE_PARAMETERS} like \`charset=utf-8\`, and \`filename\` for the name`,
    )
  }
  if (COMPOSITE.test(type)) {
    throw invalidAttachment(`${field}.content_type`, `\`${type}\` is not the type of a file; use another one`)
  }
  return [type, ...parameters].join('; ')
}

/** RFC 2392: one part of the message for each; `cid:` would be ambiguous otherwise. */
function readContentId(field: string, given: string | undefined, seen: Set<string>): string | undefined {
  if (given === undefined) return undefined
  const at = `${field}.content_id`
  if (!CONTENT_ID.test(given)) {
    throw invalidAttachment(
      at,
      `\`${excerpt(given)}\` does not fit; use 1 to 128 letters, digits, \`_\`, \`-\`, \`.\` or \`@\``,
    )
  }
  if (seen.has(given))
    throw invalidAttachment(at, `\`${given}\` is another attachment's already; use a new one`)
  seen.add(given)
  return given
}

function readContent(field: string, text: string, maxBytes: number): AttachmentContent {
  const at = `${field}.content`
  const decoded = decodeBase64(text)
  if (!decoded.ok) throw invalidAttachment(at, `${decoded.reason}; use base64`)
  if (decoded.bytes.length > maxBytes) throw invalidAttachment(at, `${TOO_MUCH}; use smaller ones, or links`)
  return { sha256: hash('sha256', decoded.bytes, 'hex'), bytes: decoded.bytes }
}

/** The limit as every door says it. */
export const TOO_MUCH = `the attachments of the message have more than ${MAX_ATTACHMENTS_BYTES} bytes together`
