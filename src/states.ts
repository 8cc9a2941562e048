/**
 * Every state a message can be in. The type, the CHECK in `mail.message` and the chart in
 * ARCHITECTURE.md say the same; a test compares them.
 *
 * `accepted or scheduled → queued → sending → sent → delivered | bounced | complained`; the others are
 * where a message waits (`deferred`, `unknown`) or ends (`dead`, `suppressed`, `canceled`).
 */
export const MESSAGE_STATES = [
  'accepted',
  'scheduled',
  'queued',
  'sending',
  'deferred',
  'unknown',
  'sent',
  'delivered',
  'bounced',
  'complained',
  'dead',
  'suppressed',
  'canceled',
] as const

export type MessageState = (typeof MESSAGE_STATES)[number]

/** What `mail.event.type` can be so far, in the order a message usually meets them. */
export const EVENT_TYPES = [
  'accepted',
  'scheduled',
  'replayed',
  'queued',
  'suppressed',
  'deferred',
  'unreachable',
  'recipient_sent',
  'recipient_refused',
  'sent',
  'unknown',
  'recovered',
  'retried',
  'canceled',
  'discarded',
  'dead',
  'delivered',
  'bounced',
  'complained',
  'opened',
  'clicked',
  'unsubscribed',
  'rejected',
] as const

export type EventType = (typeof EVENT_TYPES)[number]
