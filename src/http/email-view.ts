import { formatAddress } from '../address.ts'
import type { Address, Message } from '../message.ts'
import type { MessageState } from '../states.ts'
import type { Email } from './queries.ts'

/** Resend's `last_event` for each of our states. */
const LAST_EVENT: Readonly<Record<MessageState, string>> = {
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

/** An email as the API shows it: Resend's fields first, then ours. */
export function presentEmail(email: Email): object {
  // A dead letter of the intake holds whatever was given, in any shape: nothing in it can be relied on.
  const isRead = email.dead_stage !== 'intake' && email.message !== null
  const message = (isRead ? email.message : {}) as Partial<Message>
  const sender = isRead ? (message.from ?? email.sender) : null
  const replyTo = message.reply_to?.length ? message.reply_to : (email.reply_to ?? [])
  return {
    object: 'email',
    id: email.id,
    message_id: sender ? `<${email.id}@${sender.address.split('@')[1]}>` : null,
    to: isRead ? list(message.to) : [],
    from: sender ? formatAddress(sender) : null,
    created_at: email.accepted_at.toISOString(),
    subject: (isRead ? message.subject : undefined) ?? email.subject,
    html: email.html ?? (isRead ? (message.html ?? null) : null),
    text: email.text ?? (isRead ? (message.text ?? null) : null),
    cc: isRead ? list(message.cc) : [],
    bcc: isRead ? list(message.bcc) : [],
    reply_to: isRead ? list(replyTo) : [],
    last_event: lastEvent(email),
    scheduled_at: email.scheduled_at?.toISOString() ?? null,
    tags: isRead ? (message.tags ?? []) : [],
    metadata: isRead ? (message.metadata ?? {}) : {},
    status: email.status,
    stream: email.stream,
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

/** Opens and clicks are no states of ours: they come again and again, and prove no more than a delivery. */
function lastEvent({ status, timeline }: Email): string {
  if (status !== 'sent' && status !== 'delivered') return LAST_EVENT[status]
  const types = new Set(timeline.map(({ type }) => type))
  if (types.has('clicked')) return 'clicked'
  if (types.has('opened')) return 'opened'
  const isDelayed = status === 'sent' && timeline.at(-1)?.type === 'deferred'
  return isDelayed ? 'delivery_delayed' : LAST_EVENT[status]
}

function list(addresses: readonly Address[] | undefined): string[] {
  return (addresses ?? []).map(formatAddress)
}
