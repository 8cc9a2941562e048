import { DEFAULT_STREAM } from '../catalog.ts'
import { formatAddress } from '../message/address.ts'
import type { Address, Message } from '../message/message.ts'
import { parseMessage } from '../message/message-schema.ts'
import { sealedRowOf } from '../message/sensitive-message.ts'
import type { MessageState } from '../states.ts'
import { presentAttachments } from './attachments.ts'
import type { AppDeps } from './deps.ts'
import type { ListedEmail } from './email-list-queries.ts'
import type { EmailAnswer, EmailHead, LastEvent, ListedEmailAnswer } from './openapi/email-answers.ts'
import type { Email, WaitingEmail } from './queries.ts'

/** Resend's `last_event` for each of our states. */
export const LAST_EVENT: Readonly<Record<MessageState, LastEvent>> = {
  accepted: 'queued',
  scheduled: 'scheduled',
  queued: 'queued',
  sending: 'queued',
  deferred: 'delivery_delayed',
  unknown: 'delivery_delayed',
  sent: 'sent',
  delivered: 'delivered',
  bounced: 'bounced',
  complained: 'complained',
  dead: 'failed',
  suppressed: 'suppressed',
  canceled: 'canceled',
}

/** What the mover writes first of a message that it could read. */
const READ_EVENTS = new Set(['accepted', 'scheduled'])

/** An email as the API shows it: Resend's fields first, then ours. */
export function presentEmail(email: Email): EmailAnswer {
  // What the intake refused is kept as it was given, in any shape: nothing in it can be relied on.
  const isRead = email.timeline.some(({ type }) => READ_EVENTS.has(type))
  return present(email, isRead ? ((email.message ?? {}) as Partial<Message>) : undefined)
}

/** Likewise, of an email that waits at the door as it was given. */
export function presentWaiting(
  { catalog, messageLimits }: Pick<AppDeps, 'catalog' | 'messageLimits'>,
  { message: given, received_at: receivedAt, ...waiting }: WaitingEmail,
): EmailAnswer {
  const sealed = sealedRowOf(given)?.clear
  const parsed = parseMessage(given, messageLimits, receivedAt.getTime(), 'row')
  const message: Partial<Message> | undefined = sealed ?? (parsed.ok ? parsed.message : undefined)
  const stream = waiting.stream ?? message?.stream ?? DEFAULT_STREAM
  const { scheduled_at: scheduledAt } = message ?? {}
  const email: Email = {
    ...waiting,
    message,
    stream,
    priority: waiting.priority ?? message?.priority ?? catalog.current.streams.get(stream)?.priority ?? 5,
    status: 'accepted',
    is_sensitive: message?.sensitive === true || catalog.current.streams.get(stream)?.isSensitive === true,
    scheduled_at: scheduledAt === undefined ? null : new Date(scheduledAt),
    attempts: 0,
    timeline: [],
    is_content_removed: false,
    ...{ provider: null, provider_message_id: null, sent_at: null, next_attempt_at: null, fetched: null },
    ...{ last_error: null, reason: null, template: null, template_version: null, sender: null },
    ...{ subject: null, html: null, text: null, reply_to: null },
  }
  return present(email, message)
}

/** `read` is the message when it could be understood. */
function present(email: Email, read: Partial<Message> | undefined): EmailAnswer {
  // What SQL writers hand in is not encrypted until it is moved; it is not shown before either.
  const message = email.is_sensitive ? withoutSecrets(read ?? {}) : (read ?? {})
  return {
    object: 'email',
    ...presentHead({
      ...email,
      ...envelopeOf(message, read && email),
      subject: message.subject ?? email.subject,
      events: email.timeline.map(({ type }) => type),
    }),
    html: email.html ?? message.html ?? null,
    text: email.text ?? message.text ?? null,
    tags: message.tags ?? [],
    attachments: read === undefined ? [] : presentAttachments(email.fetched ?? message.attachments),
    metadata: message.metadata ?? {},
    content_removed: email.is_content_removed,
    status: email.status,
    stream: email.stream,
    sensitive: email.is_sensitive,
    priority: email.priority,
    provider: email.provider,
    provider_message_id: email.provider_message_id,
    attempts: email.attempts,
    sent_at: email.sent_at?.toISOString() ?? null,
    next_attempt_at: email.next_attempt_at?.toISOString() ?? null,
    template: email.template === null ? null : { name: email.template, version: email.template_version },
    error: email.last_error === null ? null : { code: email.last_error, reason: email.reason },
    timeline: email.timeline,
  }
}

/** An email in a list: Resend's fields, then ours, and no bodies. */
export function presentListed(email: ListedEmail): ListedEmailAnswer {
  return {
    ...presentHead(email),
    tags: email.tags ?? [],
    status: email.status,
    stream: email.stream,
    sensitive: email.is_sensitive,
  }
}

function withoutSecrets({ subject, html, text, headers, attachments, template, ...clear }: Partial<Message>) {
  return clear as Partial<Message>
}

type Envelope = Pick<ListedEmail, 'from' | 'to' | 'cc' | 'bcc' | 'reply_to'>
type Head = Envelope &
  Pick<ListedEmail, 'id' | 'created_at' | 'subject' | 'status' | 'scheduled_at' | 'events'>

/** The template's sender stands in for one that the message does not name. */
function envelopeOf(
  message: Partial<Message>,
  prepared: Pick<Email, 'sender' | 'reply_to'> | undefined,
): Envelope {
  const { from, to, cc, bcc, reply_to: replyTo } = message
  return {
    from: from ?? prepared?.sender ?? null,
    to: to ?? null,
    cc: cc ?? null,
    bcc: bcc ?? null,
    reply_to: replyTo?.length ? replyTo : (prepared?.reply_to ?? null),
  }
}

/** What Resend shows of an email everywhere. */
function presentHead(email: Head): EmailHead {
  const { from } = email
  return {
    id: email.id,
    message_id: from === null ? null : `<${email.id}@${from.address.split('@')[1]}>`,
    to: list(email.to),
    from: from === null ? null : formatAddress(from),
    created_at: email.created_at,
    subject: email.subject,
    bcc: list(email.bcc),
    cc: list(email.cc),
    reply_to: list(email.reply_to),
    last_event: lastEvent(email.status, email.events),
    scheduled_at: email.scheduled_at?.toISOString() ?? null,
  }
}

/** Opens and clicks are no states of ours: they come again and again, and prove no more than a delivery. */
function lastEvent(status: MessageState, types: readonly string[]): LastEvent {
  if (status !== 'sent' && status !== 'delivered') return LAST_EVENT[status]
  if (types.includes('clicked')) return 'clicked'
  if (types.includes('opened')) return 'opened'
  const isDelayed = status === 'sent' && types.at(-1) === 'deferred'
  return isDelayed ? 'delivery_delayed' : LAST_EVENT[status]
}

function list(addresses: readonly Address[] | null): string[] {
  return (addresses ?? []).map(formatAddress)
}
