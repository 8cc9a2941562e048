/**
 * What an app can be told of by a webhook: Resend's names, and two of ours for what Resend does not tell
 * (`email.unsubscribed`, `email.canceled`). The CHECK on `mail.webhook_endpoint.events` says the same; a test
 * compares them.
 */
export const WEBHOOK_EVENTS = [
  'email.scheduled',
  'email.sent',
  'email.delivered',
  'email.delivery_delayed',
  'email.bounced',
  'email.complained',
  'email.opened',
  'email.clicked',
  'email.unsubscribed',
  'email.suppressed',
  'email.failed',
  'email.canceled',
] as const

export type WebhookEvent = (typeof WEBHOOK_EVENTS)[number]
