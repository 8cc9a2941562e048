import { createHmac, generateKeyPairSync, sign } from 'node:crypto'
import { Webhook } from 'standardwebhooks'
import type { Delivery } from '../../src/feedback/verify/proof.ts'

/** What providers would send: each signs with a key made for the test. */

export type Call = { readonly headers: Readonly<Record<string, string>>; readonly body: Buffer }

export function deliveryOf({ headers, body }: Call): Delivery {
  const lower = new Map(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]))
  return { header: (name) => lower.get(name.toLowerCase()), body }
}

export const STANDARD_SECRET = `whsec_${Buffer.alloc(24, 7).toString('base64')}`

/** Signed by the reference library, under Svix's header names unless told otherwise. */
export function standardCall(
  body: string,
  nowMs: number,
  { id = 'msg_1', secret = STANDARD_SECRET, prefix = 'svix' } = {},
): Call {
  const at = new Date(nowMs)
  return {
    headers: {
      [`${prefix}-id`]: id,
      [`${prefix}-timestamp`]: String(Math.floor(nowMs / 1_000)),
      [`${prefix}-signature`]: new Webhook(secret).sign(id, at, body),
    },
    body: Buffer.from(body),
  }
}

const sendGridKeys = generateKeyPairSync('ec', { namedCurve: 'P-256' })
export const SENDGRID_SECRET = sendGridKeys.publicKey
  .export({ format: 'der', type: 'spki' })
  .toString('base64')

export function sendGridCall(body: string, nowMs: number): Call {
  const timestamp = String(Math.floor(nowMs / 1_000))
  const signature = sign('sha256', Buffer.from(timestamp + body), sendGridKeys.privateKey)
  return {
    headers: {
      'X-Twilio-Email-Event-Webhook-Timestamp': timestamp,
      'X-Twilio-Email-Event-Webhook-Signature': signature.toString('base64'),
    },
    body: Buffer.from(body),
  }
}

export const MAILGUN_SECRET = 'mailgun-signing-key'

export function mailgunCall(
  eventData: unknown,
  nowMs: number,
  { token = 'e0b5477167110d68991efc6b9f89f0a11066af27834600e123', secret = MAILGUN_SECRET } = {},
): Call {
  const timestamp = String(Math.floor(nowMs / 1_000))
  const signature = createHmac('sha256', secret)
    .update(timestamp + token)
    .digest('hex')
  const body = { signature: { timestamp, token, signature }, 'event-data': eventData }
  return { headers: {}, body: Buffer.from(JSON.stringify(body)) }
}

export const POSTMARK_SECRET = 'postmark:a-long-password'

export function postmarkCall(event: unknown, credentials = POSTMARK_SECRET): Call {
  return {
    headers: { Authorization: `Basic ${Buffer.from(credentials).toString('base64')}` },
    body: Buffer.from(JSON.stringify(event)),
  }
}
