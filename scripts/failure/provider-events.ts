import { setTimeout as delay } from 'node:timers/promises'
import {
  type Call,
  MAILGUN_SECRET,
  mailgunCall,
  POSTMARK_SECRET,
  postmarkCall,
  SENDGRID_SECRET,
  STANDARD_SECRET,
  sendGridCall,
  standardCall,
} from '../../test/feedback/proofs.ts'

/** What providers tell of our mail, signed as they sign it; and what others would like them to have told. */

export type ProviderEvent = {
  readonly messageId: string
  readonly recipient: string
  readonly type: 'delivered' | 'opened' | 'clicked' | 'bounced' | 'complained'
  /** Unix seconds; with message and type it tells an event from all others. */
  readonly atS: number
}

export const SOURCES = ['sendgrid', 'mailgun', 'postmark', 'resend', 'generic'] as const
export type SourceKind = (typeof SOURCES)[number]

export const SECRETS: Readonly<Record<string, string>> = {
  STORM_SENDGRID: SENDGRID_SECRET,
  STORM_MAILGUN: MAILGUN_SECRET,
  STORM_POSTMARK: POSTMARK_SECRET,
  STORM_RESEND: STANDARD_SECRET,
  STORM_GENERIC: STANDARD_SECRET,
}

/** Some send each event by itself, some gather. */
export function eventsPerCall(kind: SourceKind): number {
  return kind === 'sendgrid' || kind === 'generic' ? 10 : 1
}

/** One delivery as this provider would make it now: a repeat has the same ids, and a proof of its own time. */
export function callOf(kind: SourceKind, events: readonly ProviderEvent[], nowMs: number): Call {
  const [event] = events
  if (event === undefined) throw new Error('a delivery tells of something')
  switch (kind) {
    case 'sendgrid':
      return sendGridCall(JSON.stringify(events.map(sendGridEvent)), nowMs)
    case 'mailgun':
      return mailgunCall(mailgunEvent(event), nowMs, { token: `${keyOf(event)} ${nowMs}` })
    case 'postmark':
      return postmarkCall(postmarkEvent(event))
    case 'resend':
      return standardCall(JSON.stringify(resendEvent(event)), nowMs, { id: `msg_${idOf(event)}` })
    case 'generic':
      return standardCall(JSON.stringify({ events: events.map(genericEvent) }), nowMs, {
        id: `msg_${idOf(event)}`,
        prefix: 'webhook',
      })
  }
}

export const FORGERIES = ['altered', 'wrong secret', 'too old', 'without proof', 'used token'] as const
export type Forgery = (typeof FORGERIES)[number]

/** A delivery that this provider never made, from what somebody could see or guess of one. */
export function forgeryOf(
  forgery: Forgery,
  kind: SourceKind,
  { real, wish }: { real: readonly ProviderEvent[]; wish: ProviderEvent },
  nowMs: number,
): Call {
  const call = callOf(kind, real, nowMs)
  const wished = callOf(kind, [wish], nowMs)
  if (kind === 'postmark') return postmarkCall(postmarkEvent(wish), 'postmark:a-guessed-password')
  if (kind === 'mailgun') return forgedMailgun(forgery, call, wished, nowMs, wish)
  switch (forgery) {
    case 'wrong secret':
      return kind === 'sendgrid'
        ? { ...wished, headers: { ...wished.headers, ...anotherSignature(call) } }
        : standardCall(wished.body.toString(), nowMs, {
            secret: `whsec_${Buffer.alloc(24, 9).toString('base64')}`,
            prefix: kind === 'generic' ? 'webhook' : 'svix',
          })
    case 'too old':
      return callOf(kind, [wish], nowMs - 3_600_000)
    case 'without proof':
      return { headers: {}, body: wished.body }
    default:
      return { headers: call.headers, body: wished.body }
  }
}

function anotherSignature({ headers }: Call): Readonly<Record<string, string>> {
  return { 'X-Twilio-Email-Event-Webhook-Signature': headers['X-Twilio-Email-Event-Webhook-Signature'] ?? '' }
}

/** Its signature covers a token alone: whoever saw one may put any event beside it, and comes second. */
function forgedMailgun(forgery: Forgery, call: Call, wished: Call, nowMs: number, wish: ProviderEvent): Call {
  const body = JSON.parse(call.body.toString()) as { signature: object }
  if (forgery === 'used token') {
    return { headers: {}, body: Buffer.from(JSON.stringify({ ...body, 'event-data': mailgunEvent(wish) })) }
  }
  if (forgery === 'too old') return mailgunCall(mailgunEvent(wish), nowMs - 2 * 86_400_000)
  if (forgery === 'without proof') {
    return { headers: {}, body: Buffer.from(JSON.stringify({ 'event-data': mailgunEvent(wish) })) }
  }
  return forgery === 'altered'
    ? { headers: {}, body: Buffer.from(wished.body.toString().replace(/("token":")./, '$1z')) }
    : mailgunCall(mailgunEvent(wish), nowMs, { token: 'f'.repeat(50), secret: 'a-guessed-key' })
}

export function keyOf({ messageId, type, atS }: ProviderEvent): string {
  return `${messageId} ${type} ${atS}`
}

function idOf(event: ProviderEvent): string {
  return keyOf(event).replaceAll(' ', '_')
}

const ISO = (atS: number) => new Date(atS * 1_000).toISOString()

function sendGridEvent(event: ProviderEvent) {
  const names = {
    delivered: 'delivered',
    opened: 'open',
    clicked: 'click',
    bounced: 'bounce',
    complained: 'spamreport',
  }
  return {
    event: names[event.type],
    email: event.recipient,
    timestamp: event.atS,
    sg_event_id: idOf(event),
    sluice_id: event.messageId,
    ...(event.type === 'bounced' && { status: '5.1.1', bounce_classification: 'Invalid Address' }),
  }
}

function mailgunEvent(event: ProviderEvent) {
  return {
    event: event.type === 'bounced' ? 'failed' : event.type,
    ...(event.type === 'bounced' && {
      severity: 'permanent',
      'delivery-status': { 'enhanced-code': '5.1.1' },
    }),
    id: idOf(event),
    timestamp: event.atS,
    recipient: event.recipient,
    'user-variables': { sluice_id: event.messageId },
  }
}

function postmarkEvent(event: ProviderEvent) {
  const records = {
    delivered: { RecordType: 'Delivery', DeliveredAt: ISO(event.atS) },
    opened: { RecordType: 'Open', ReceivedAt: ISO(event.atS) },
    clicked: { RecordType: 'Click', ReceivedAt: ISO(event.atS), OriginalLink: 'https://shop.example' },
    bounced: { RecordType: 'Bounce', Type: 'HardBounce', BouncedAt: ISO(event.atS) },
    complained: { RecordType: 'SpamComplaint', BouncedAt: ISO(event.atS) },
  }
  return {
    ...records[event.type],
    MessageID: `pm-${event.messageId}`,
    Recipient: event.recipient,
    Email: event.recipient,
    Metadata: { sluice_id: event.messageId },
  }
}

function resendEvent(event: ProviderEvent) {
  return {
    type: `email.${event.type}`,
    created_at: ISO(event.atS),
    data: {
      to: [event.recipient],
      tags: { sluice_id: event.messageId },
      ...(event.type === 'bounced' && { bounce: { type: 'Permanent', message: '5.1.1 no such user' } }),
    },
  }
}

function genericEvent(event: ProviderEvent) {
  return {
    type: event.type,
    at: ISO(event.atS),
    key: idOf(event),
    sluice_id: event.messageId,
    recipient: event.recipient,
    ...(event.type === 'bounced' && { bounce: { kind: 'hard', code: '5.1.1' } }),
  }
}

const RETRY_MS = 200

/** As a provider sends: again until there is an answer that says something. Resolves with its status. */
export async function deliver(url: string, kind: SourceKind, make: () => Call): Promise<number> {
  for (;;) {
    const { headers, body } = make()
    const answer = await fetch(`${url}/webhooks/${kind}/storm-${kind}`, {
      method: 'POST',
      headers,
      body: new Uint8Array(body),
    })
    await answer.arrayBuffer()
    if (answer.status !== 503) return answer.status
    await delay(RETRY_MS)
  }
}
