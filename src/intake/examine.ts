import { type Catalog, DEFAULT_STREAM } from '../catalog.ts'
import type { Message } from '../message/message.ts'
import type { AttachmentContent } from '../message/message-attachments.ts'
import {
  DEFAULT_MESSAGE_LIMITS,
  type MessageLimits,
  type ParsedMessage,
  parseMessage,
} from '../message/message-schema.ts'
import type { MovedRow, TakenRow } from './queries.ts'

/** A row as the mover will store it, with what idempotency needs to know of the row it came from. */
export type ExaminedRow = MovedRow & {
  readonly idempotencyKey: string | null
  readonly given: string
  readonly isAwaited: boolean
  /** Of a good message with attachments: what is left to settle about them (see attachments.ts). */
  readonly attached?: { readonly message: Message; readonly contents: readonly AttachmentContent[] }
}

/** Code of a dead letter whose attachments are wrong, or are not there. */
export const INVALID_ATTACHMENT = 'invalid_attachment'

const REASON_LENGTH = 2_000

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
): ExaminedRow {
  const parsed: ParsedMessage =
    known === undefined ? read(row, limits) : { ok: true, message: known, contents: [] }
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
  }
  const { priority } = row
  if (!parsed.ok) {
    const lane = { stream: streamName, priority: priority ?? stream?.priority ?? 5 }
    const code = parsed.problem.name === INVALID_ATTACHMENT ? INVALID_ATTACHMENT : 'invalid_message'
    return { ...base, ...lane, ...dead(code, parsed.problem.message), message: row.message }
  }
  const { message, contents } = parsed
  const lane = { stream: streamName, priority: priority ?? message.priority ?? stream?.priority ?? 5 }
  if (stream === undefined) {
    const known = [...catalog.streams.keys()].join(', ')
    const reason = `Invalid \`stream\`: there is no stream \`${streamName}\`; the streams are ${known}.`
    return { ...base, ...lane, ...dead('unknown_stream', reason), message: row.message }
  }
  return {
    ...base,
    ...lane,
    status: message.scheduled_at === undefined ? 'accepted' : 'scheduled',
    code: null,
    reason: null,
    template: message.template?.id ?? null,
    recipient_domain: domainOf(message),
    scheduled_at: message.scheduled_at ?? null,
    terms: termsOf(message),
    message: JSON.stringify(message),
    ...(message.attachments !== undefined && { attached: { message, contents } }),
  }
}

/** Postgres took it for JSON, and may know limits of nesting and size that we do not. */
function read({ message, received_at: receivedAt }: TakenRow, limits: MessageLimits): ParsedMessage {
  try {
    return parseMessage(JSON.parse(message), limits, receivedAt.getTime(), 'row')
  } catch (error) {
    if (!(error instanceof SyntaxError || error instanceof RangeError)) throw error
    return {
      ok: false,
      problem: { name: 'validation_error', message: 'The message cannot be read as JSON.' },
    }
  }
}

/** The same row, refused after all. */
export function refuse(row: ExaminedRow, code: string, reason: string): ExaminedRow {
  const { attached: _, ...rest } = row
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
