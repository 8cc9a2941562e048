import type { Problem } from '../errors.ts'
import type { ListedHost } from '../network/listed-hosts.ts'
import { parseAddress } from './address.ts'
import type { Address, Message, TemplateReference } from './message.ts'
import { type AttachmentContent, readAttachments } from './message-attachments.ts'
import { readHeaders } from './message-headers.ts'
import {
  ADDRESS,
  below,
  type Door,
  invalid,
  type MessageShape,
  missing,
  Refusal,
  readShape,
} from './message-shape.ts'
import { lineFault, textFault } from './message-text.ts'
import { checkVariables } from './message-variables.ts'
import { readScheduledAt } from './scheduled-at.ts'

/** What an operator may set; the other limits are part of the format. */
export type MessageLimits = {
  /** Of to, cc and bcc together; reply_to alone may have as many. */
  readonly maxRecipients: number
  /** Of html and text each, in UTF-8 bytes. */
  readonly maxBodyBytes: number
  /** Of the template variables as compact JSON, escapes not counted and each number taken for 8 bytes. */
  readonly maxVariablesBytes: number
  /** Which hosts attachments may be fetched from; none: `path` is refused. */
  readonly attachmentHosts: readonly ListedHost[]
}

export const DEFAULT_MESSAGE_LIMITS: MessageLimits = {
  maxRecipients: 50,
  maxBodyBytes: 10 * 1024 * 1024,
  maxVariablesBytes: 256 * 1024,
  attachmentHosts: [],
}

const MAX_METADATA_KEY_CHARS = 128
const MAX_METADATA_VALUE_CHARS = 1_024
const MAX_TEMPLATE_ID_CHARS = 255

export type ParsedMessage =
  | {
      readonly ok: true
      readonly message: Message
      /** The bytes that came along, for `mail.attachment`; the message names them by their hash. */
      readonly contents: readonly AttachmentContent[]
    }
  | { readonly ok: false; readonly problem: Problem }

/**
 * Checks and reads a message, from the body of a request or from a row inserted by SQL alike. Never throws for
 * anything `JSON.parse` can return: what is wrong comes back as one problem, always the same one for the same
 * input. Unknown fields and shape first, then the content, each in the order of the schema.
 *
 * Null is refused wherever it is not a template variable: Resend's Node client leaves absent fields out, and a column
 * that turned out null in an SQL insert is more often a mistake than a wish. Template variables are held on to as
 * they were given; all else is new.
 *
 * `now` is when the message was handed in, in milliseconds since the epoch: what `scheduled_at` counts from.
 */
export function parseMessage(
  input: unknown,
  limits: MessageLimits = DEFAULT_MESSAGE_LIMITS,
  now: number = Date.now(),
  door: Door = 'rest',
): ParsedMessage {
  try {
    return { ok: true, ...readMessage(input, limits, now, door) }
  } catch (error) {
    if (error instanceof Refusal) return { ok: false, problem: error.problem }
    throw error
  }
}

function readMessage(
  input: unknown,
  limits: MessageLimits,
  now: number,
  door: Door,
): { message: Message; contents: readonly AttachmentContent[] } {
  const shape = readShape(input, limits.maxRecipients, door)
  const recipients = readRecipients(shape, limits.maxRecipients)
  const subject = readSubject(shape)
  checkContent(shape, limits)
  const headers = readHeaders(shape.headers)
  checkMetadata(shape.metadata)
  const template = readTemplate(shape.template, limits)
  const scheduledAt = readSchedule(shape.scheduled_at, now)
  // Last: it is the only part that costs more than a look.
  const { attachments, contents } = readAttachments(shape.attachments ?? [], limits.attachmentHosts)
  const message = {
    ...recipients,
    ...(subject !== undefined && { subject }),
    ...(shape.html !== undefined && { html: shape.html }),
    ...(shape.text !== undefined && { text: shape.text }),
    headers,
    tags: shape.tags ?? [],
    metadata: shape.metadata ?? {},
    ...(template !== undefined && { template }),
    ...(scheduledAt !== undefined && { scheduled_at: scheduledAt }),
    ...(attachments.length > 0 && { attachments }),
    ...(shape.stream !== undefined && { stream: shape.stream }),
    ...(shape.priority !== undefined && { priority: shape.priority }),
    ...(shape.sensitive === true && { sensitive: true as const }),
  }
  return { message, contents }
}

function readRecipients(shape: MessageShape, maxRecipients: number) {
  const from = readSender(shape)
  const to = readMailboxes('to', shape.to)
  if (to.length === 0)
    throw invalid('to', 'the list is empty; use at least one address like `name@example.com`')
  const cc = readMailboxes('cc', shape.cc)
  const bcc = readMailboxes('bcc', shape.bcc)
  const count = to.length + cc.length + bcc.length
  if (count > maxRecipients) {
    const field = to.length + cc.length > maxRecipients ? 'cc' : 'bcc'
    throw invalid(
      field,
      `\`to\`, \`cc\` and \`bcc\` have ${count} addresses; use at most ${maxRecipients} in all`,
    )
  }
  return {
    ...(from !== undefined && { from }),
    to,
    cc,
    bcc,
    reply_to: readMailboxes('reply_to', shape.reply_to),
  }
}

function readSender({ from, template }: MessageShape): Address | undefined {
  if (from !== undefined) return readMailbox('from', from)
  if (template !== undefined) return undefined
  throw missing('from', `it is required unless a template is given; use ${ADDRESS}`)
}

function readMailboxes(field: string, value: string | string[] | undefined): Address[] {
  if (value === undefined) return []
  if (typeof value === 'string') return [readMailbox(field, value)]
  return value.map((text, index) => readMailbox(field, text, index))
}

function readMailbox(field: string, text: string, index?: number): Address {
  const parsed = parseAddress(text)
  if (parsed.ok) return parsed.address
  throw invalid(index === undefined ? field : below(field, index), parsed.reason)
}

function readSubject({ subject, template }: MessageShape): string | undefined {
  if (subject === undefined) {
    if (template !== undefined) return undefined
    throw missing('subject', 'it is required unless a template is given; use a line of text')
  }
  const fault = lineFault(subject)
  if (fault !== undefined) throw invalid('subject', `${fault}; use a single line of text`)
  const trimmed = subject.trim()
  if (trimmed === '') throw invalid('subject', 'it is empty; use a line of text')
  return trimmed
}

/** An empty text beside an html is allowed: it asks for a message without a plain text part. */
function checkContent({ html, text, template }: MessageShape, limits: MessageLimits): void {
  if (template !== undefined) {
    const extra = html !== undefined ? 'html' : text !== undefined ? 'text' : undefined
    if (extra === undefined) return
    throw invalid(extra, `\`template\` already supplies the content; leave out \`${extra}\` or \`template\``)
  }
  if (html === undefined && text === undefined) {
    throw missing('html', 'a message needs content; use at least one of `html`, `text` and `template`')
  }
  if (!html && !text) {
    throw invalid(html === undefined ? 'text' : 'html', 'the message would be empty; use some content')
  }
  checkBody('html', html, limits.maxBodyBytes)
  checkBody('text', text, limits.maxBodyBytes)
}

function checkBody(field: string, body: string | undefined, maxBytes: number): void {
  if (body === undefined) return
  // A UTF-16 unit takes one to three bytes: most bodies need no counting.
  if (body.length * 3 > maxBytes && Buffer.byteLength(body) > maxBytes) {
    throw invalid(field, `it is larger than ${maxBytes} bytes; use a shorter body`)
  }
  const fault = textFault(body)
  if (fault !== undefined) throw invalid(field, `${fault}; use text without it`)
}

function checkMetadata(metadata: Record<string, string> = {}): void {
  for (const [key, value] of Object.entries(metadata)) {
    const field = () => below('metadata', key)
    const fault = textFault(key) ?? textFault(value)
    if (fault !== undefined) throw invalid(field(), `${fault}; use text without it`)
    if (key === '' || key.length > MAX_METADATA_KEY_CHARS) {
      throw invalid(field(), `its name is ${key.length} characters long; use 1 to ${MAX_METADATA_KEY_CHARS}`)
    }
    if (value.length > MAX_METADATA_VALUE_CHARS) {
      throw invalid(field(), `it is ${value.length} characters long; use at most ${MAX_METADATA_VALUE_CHARS}`)
    }
  }
}

function readTemplate(
  template: MessageShape['template'],
  limits: MessageLimits,
): TemplateReference | undefined {
  if (template === undefined) return undefined
  const fault = lineFault(template.id)
  if (fault !== undefined)
    throw invalid('template.id', `${fault}; use the id, the alias or the name of a template`)
  const id = template.id.trim()
  if (id === '' || id.length > MAX_TEMPLATE_ID_CHARS) {
    throw invalid('template.id', `it is ${id.length} characters long; use 1 to ${MAX_TEMPLATE_ID_CHARS}`)
  }
  // The schema has seen that it is an object.
  const variables = (template.variables ?? {}) as Record<string, unknown>
  checkVariables(variables, limits.maxVariablesBytes)
  return { id, ...(template.version !== undefined && { version: template.version }), variables }
}

/** Undefined for a moment that has passed: the message goes at once. */
function readSchedule(given: string | undefined, now: number): string | undefined {
  if (given === undefined) return undefined
  const read = readScheduledAt(given, now)
  if (!read.ok) throw invalid('scheduled_at', read.reason)
  return read.at > now ? new Date(read.at).toISOString() : undefined
}
