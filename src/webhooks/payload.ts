import { hash } from 'node:crypto'
import { formatAddress } from '../message/address.ts'
import type { Address } from '../message/message.ts'
import type { WebhookEvent } from '../webhook-events.ts'
import type { FeedEvent } from './queries.ts'

/** Types of `mail.event` that an app is told of. The others are steps on the way. */
const TYPE_OF: Readonly<Record<string, WebhookEvent>> = {
  scheduled: 'email.scheduled',
  sent: 'email.sent',
  delivered: 'email.delivered',
  deferred: 'email.delivery_delayed',
  bounced: 'email.bounced',
  // Refused for good while it was handed over: a bounce that came at once.
  recipient_refused: 'email.bounced',
  complained: 'email.complained',
  opened: 'email.opened',
  clicked: 'email.clicked',
  unsubscribed: 'email.unsubscribed',
  suppressed: 'email.suppressed',
  dead: 'email.failed',
  rejected: 'email.failed',
  canceled: 'email.canceled',
}

/** The types of `mail.event` that stand behind these webhook events; null means all of them. */
export function eventTypesOf(wanted: readonly (readonly string[] | null)[]): string[] {
  return Object.entries(TYPE_OF)
    .filter(([, type]) => wanted.some((events) => events === null || events.includes(type)))
    .map(([eventType]) => eventType)
}

/** That a message is suppressed is told of each recipient it had, and not of the message once more. */
export function webhookTypeOf({
  type,
  recipient,
}: Pick<FeedEvent, 'type' | 'recipient'>): WebhookEvent | undefined {
  return type === 'suppressed' && recipient === null ? undefined : TYPE_OF[type]
}

/**
 * The same for the same event and endpoint, so that an event is told once however often it is read; ordered by
 * the time of the event (migrations/0020_webhook.sql, mail.webhook_id_floor).
 */
export function deliveryIdOf(endpoint: string, event: Pick<FeedEvent, 'at' | 'event_id'>): string {
  const ms = event.at.getTime().toString(16).padStart(12, '0')
  return `msg_${ms}${hash('sha256', `${endpoint}.${event.event_id}`, 'hex').slice(0, 20)}`
}

/** The body of a webhook in Resend's shape, with `recipient`, `stream` and `metadata` of ours beside it. */
export function payloadOf(type: WebhookEvent, event: FeedEvent): object {
  const sender = event.from ?? event.sender
  return {
    type,
    created_at: event.at.toISOString(),
    data: {
      email_id: event.message_id,
      message_id: sender ? `<${event.message_id}@${sender.address.split('@')[1]}>` : null,
      from: sender ? formatAddress(sender) : null,
      to: (event.to ?? []).map((address: Address) => formatAddress(address)),
      subject: event.subject,
      created_at: (event.accepted_at ?? event.at).toISOString(),
      tags: Object.fromEntries((event.tags ?? []).map(({ name, value }) => [name, value])),
      ...(event.recipient === null ? {} : { recipient: event.recipient }),
      stream: event.stream,
      metadata: event.metadata ?? {},
      ...detailOf(type, event),
    },
  }
}

function detailOf(type: WebhookEvent, event: FeedEvent): object {
  switch (type) {
    case 'email.bounced':
      return { bounce: bounceOf(event) }
    case 'email.clicked':
      return { click: clickOf(event) }
    case 'email.failed':
      return { failed: { reason: event.reason ?? said(event, 'reason', 'reply', 'code') ?? 'unknown' } }
    case 'email.suppressed':
      return {
        suppressed: { message: 'The address is on the suppression list.', type: 'OnAccountSuppressionList' },
      }
    case 'email.delivery_delayed':
      return { delayed: { reason: said(event, 'reason', 'reply', 'code') ?? 'unknown' } }
    default:
      return {}
  }
}

/** The words of Amazon SES, which Resend uses too. */
const BOUNCE_TYPES: Readonly<Record<string, string>> = { hard: 'Permanent', soft: 'Transient' }

function bounceOf(event: FeedEvent): object {
  const kind = event.type === 'recipient_refused' ? 'hard' : (said(event, 'kind') ?? '')
  return {
    message: said(event, 'reason', 'reply') ?? 'No reason was given.',
    type: BOUNCE_TYPES[kind] ?? 'Undetermined',
    subType: 'General',
    code: said(event, 'enhanced_code') ?? null,
  }
}

function clickOf(event: FeedEvent): object {
  return {
    link: said(event, 'url') ?? '',
    timestamp: event.at.toISOString(),
    userAgent: said(event, 'user_agent') ?? '',
    ipAddress: said(event, 'ip') ?? '',
  }
}

/** The first of these that the event's detail has as text. */
function said({ detail }: FeedEvent, ...keys: readonly string[]): string | undefined {
  return keys.map((key) => detail?.[key]).find((value) => typeof value === 'string' && value !== '') as
    | string
    | undefined
}
