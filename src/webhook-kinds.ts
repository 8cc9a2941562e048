/** How a webhook proves where it comes from, and what its body looks like. The CHECK in `mail.webhook_source` says the same. */
export const WEBHOOK_KINDS = ['ses', 'sendgrid', 'mailgun', 'postmark', 'resend', 'generic', 'dsn'] as const

export type WebhookKind = (typeof WEBHOOK_KINDS)[number]
