import { createHmac } from 'node:crypto'

const PREFIX = 'whsec_'

export type Signable = {
  readonly id: string
  readonly body: string
  /** The newest first; each signs. */
  readonly secrets: readonly string[]
  readonly at: Date
}

/**
 * The headers of Standard Webhooks (standardwebhooks.com, "Webhook headers"), and the same under the names that Svix
 * and the guides of Resend use. Receivers refuse a timestamp that is five minutes off, so each attempt has its own.
 */
export function signatureHeaders({ id, body, secrets, at }: Signable): Record<string, string> {
  const timestamp = String(Math.floor(at.getTime() / 1_000))
  const signature = secrets
    .map((secret) => {
      const key = Buffer.from(secret.slice(PREFIX.length), 'base64')
      return `v1,${createHmac('sha256', key).update(`${id}.${timestamp}.${body}`).digest('base64')}`
    })
    .join(' ')
  return {
    'webhook-id': id,
    'webhook-timestamp': timestamp,
    'webhook-signature': signature,
    'svix-id': id,
    'svix-timestamp': timestamp,
    'svix-signature': signature,
  }
}
