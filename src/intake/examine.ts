import { type Catalog, DEFAULT_STREAM } from '../catalog.ts'
import type { Message } from '../message/message.ts'
import type { AttachmentContent } from '../message/message-attachments.ts'
import {
  DEFAULT_MESSAGE_LIMITS,
  type MessageLimits,
  type ParsedMessage,
  parseMessage,
} from '../message/message-schema.ts'
import { excerpt } from '../message/message-text.ts'
import { NO_KEY_REASON, NO_KEYS, type Sealer } from '../sealer.ts'
import type { MovedRow, TakenRow } from './queries.ts'
import {
  CLEAR_ATTACHMENT_REASON,
  claimsToBeSensitive,
  type GoodMessage,
  openRow,
  type ReadRow,
  sealAttachments,
  streamNamedIn,
  withheldReason,
} from './sensitive.ts'

/** A row as the mover will store it, with what idempotency needs to know of the row it came from. */
export type ExaminedRow = MovedRow & {
  readonly idempotencyKey: string | null
  readonly given: string
  readonly isAwaited: boolean
  /** Of a good message with attachments: what is left to settle about them (see attachments.ts). */
  readonly attached?: { readonly message: Message; readonly contents: readonly AttachmentContent[] }
  /** Of a good message that is sensitive: what is sealed before the row is stored (see sensitive.ts). */
  readonly secret?: Message
}

/** Code of a dead letter whose attachments are wrong, or are not there. */
export const INVALID_ATTACHMENT = 'invalid_attachment'

const REASON_LENGTH = 2_000
/** Of a tag as it is counted; they are ASCII. */
const MAX_TAG_CHARS = 200

/**
 * Reads a taken row by the same rules for every door. Never throws: what cannot be understood is stored
 * as it was given, dead, with the reason. `known` is the message if this process read it at the door: ids
 * are given here, so nobody else's row can pass for it.
 */
export function examine(
  row: TakenRow,
  catalog: Catalog,
  limits: MessageLimits = DEFAULT_MESSAGE_LIMITS,
  known?: Message,
  sealer: Sealer = NO_KEYS,
): ExaminedRow {
  const read: ReadRow =
    known === undefined
      ? readRow(row, catalog, limits, sealer)
      : { parsed: { ok: true, message: known, contents: [] }, isSensitive: known.sensitive === true }
  const examined = examineRead(row, catalog, read.parsed)
  const isSensitive = read.isSensitive || catalog.streams.get(examined.stream)?.isSensitive === true
  return isSensitive ? examineSecret(examined, read, sealer) : examined
}

function examineRead(row: TakenRow, catalog: Catalog, parsed: ParsedMessage): ExaminedRow {
  const streamName = row.stream ?? (parsed.ok ? parsed.message.stream : undefined) ?? DEFAULT_STREAM
  const stream = catalog.streams.get(streamName)
  const base = {
    id: row.id,
    seq: row.seq,
    accepted_at: row.received_at.toISOString(),
    source: row.source,
    idempotencyKey: row.idempotency_key,
    given: row.message,
    isAwaited: row.is_awaited,
    is_sensitive: false,
    sealed: null,
    stream: streamName,
    priority: row.priority ?? (parsed.ok ? parsed.message.priority : undefined) ?? stream?.priority ?? 5,
  }
  if (!parsed.ok) {
    const code = parsed.problem.name === INVALID_ATTACHMENT ? INVALID_ATTACHMENT : 'invalid_message'
    return { ...base, ...dead(code, parsed.problem.message), message: row.message }
  }
  const { message, contents } = parsed
  if (stream === undefined) {
    const known = [...catalog.streams.keys()].join(', ')
    const reason = `Invalid \`stream\`: there is no stream \`${excerpt(streamName)}\`; the streams are ${known}.`
    return { ...base, ...dead('unknown_stream', reason), message: row.message }
  }
  return {
    ...base,
    status: message.scheduled_at === undefined ? 'accepted' : 'scheduled',
    code: null,
    reason: null,
    template: message.template?.id ?? null,
    recipient_domain: domainOf(message),
    scheduled_at: message.scheduled_at ?? null,
    terms: termsOf(message),
    tags: message.tags.map(({ name, value }) => `${name}:${value}`.slice(0, MAX_TAG_CHARS)),
    message: JSON.stringify(message),
    ...(message.attachments !== undefined && { attached: { message, contents } }),
  }
}

/** The same row as a sensitive one: refused when it cannot be kept secret, and never with its own words. */
function examineSecret(row: ExaminedRow, { parsed, fault }: ReadRow, sealer: Sealer): ExaminedRow {
  const secret = { ...row, is_sensitive: true }
  if (fault !== undefined) return refuse(secret, fault.code, fault.message)
  if (!sealer.canSeal) return refuse(secret, 'no_encryption_key', NOT_KEPT)
  if (!parsed.ok) return { ...secret, reason: withheldReason(parsed.problem.field) }
  return secret.status === 'dead' ? secret : withSecret(secret, parsed)
}

const NOT_KEPT = `This message is sensitive, and ${NO_KEY_REASON}. Nothing of it was kept: hand it in again then.`

function withSecret(row: ExaminedRow, parsed: GoodMessage): ExaminedRow {
  const good = sealAttachments(parsed)
  if (good === undefined) return refuse(row, INVALID_ATTACHMENT, CLEAR_ATTACHMENT_REASON)
  const { message, contents } = good
  return { ...row, secret: message, ...(row.attached !== undefined && { attached: { message, contents } }) }
}

/** Postgres took it for JSON, and may know limits of nesting and size that we do not. */
function readRow(row: TakenRow, catalog: Catalog, limits: MessageLimits, sealer: Sealer): ReadRow {
  const parse = (given: unknown) => parseMessage(given, limits, row.received_at.getTime(), 'row')
  try {
    const given: unknown = JSON.parse(row.message)
    const opened = openRow(sealer, row.id, given, parse)
    if (opened !== undefined) return opened
    const stream = catalog.streams.get(streamNamedIn(given) ?? '')
    return { parsed: parse(given), isSensitive: claimsToBeSensitive(given) || stream?.isSensitive === true }
  } catch (error) {
    if (!(error instanceof SyntaxError || error instanceof RangeError)) throw error
    const message = 'The message cannot be read as JSON.'
    return { parsed: { ok: false, problem: { name: 'validation_error', message } }, isSensitive: false }
  }
}

/** The same row, refused after all. */
export function refuse(row: ExaminedRow, code: string, reason: string): ExaminedRow {
  const { attached: _, secret: __, ...rest } = row
  return { ...rest, ...dead(code, reason), message: row.given }
}

function dead(code: string, reason: string) {
  return {
    status: 'dead',
    code,
    reason: reason.slice(0, REASON_LENGTH),
    template: null,
    recipient_domain: null,
    scheduled_at: null,
    terms: [],
    tags: [],
  } as const
}

function domainOf(message: Message): string | null {
  return message.to[0]?.address.split('@')[1] ?? null
}

/** What a message is found by in `mail.finder`, each once. */
function termsOf(message: Message): string[] {
  const recipients = [...message.to, ...message.cc, ...message.bcc]
  const terms = recipients.map(({ address }) => `to:${address.toLowerCase()}`)
  for (const { name, value } of message.tags) terms.push(`tag:${name}`, `tag:${name}=${value}`)
  return [...new Set(terms)]
}
