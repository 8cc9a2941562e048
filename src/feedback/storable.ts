import { hash } from 'node:crypto'
import type { FeedbackEvent } from './event.ts'

const KEY_CHARS = 300
const REASON_CHARS = 500
const DETAIL_CHARS = 4_000
/** Before that nobody sent mail with Sluice; a date far off is no date. */
const EARLIEST = Date.UTC(2020, 0, 1)
const ADDRESS = /^[!-;=?A-~]+@[a-z0-9.-]+$/
/** NUL, and half of a surrogate pair: JSON.stringify writes them so, and nothing else of theirs. */
const UNSTORABLE = /\\u(?:0000|d[89a-f])/i
const ENHANCED_CODE = /^[245]\.\d{1,3}\.\d{1,3}$/

/** What of an event goes into tables: bounded, in lower case, and nothing in it that Postgres refuses. */
export type StorableEvent = {
  readonly key: string
  readonly type: FeedbackEvent['type']
  /** ISO 8601, never in the future. */
  readonly at: string
  readonly recipient: string | null
  readonly detail: Readonly<Record<string, unknown>>
}

export function storable(event: FeedbackEvent, now: number): StorableEvent {
  const { bounce } = event
  const recipient = event.recipient?.trim().toLowerCase()
  return {
    key: keyOf(event.key),
    type: event.type,
    at: new Date(momentOf(event.at, now)).toISOString(),
    recipient: recipient !== undefined && ADDRESS.test(recipient) ? recipient : null,
    detail: {
      ...storableDetail(event.detail),
      provider: clean(event.provider),
      ...(bounce === undefined ? {} : bounceDetail(bounce)),
    },
  }
}

/** Of text from outside: NUL and half a surrogate pair cannot be stored. */
export function clean(text: string): string {
  return text.replaceAll('\0', '').toWellFormed()
}

function keyOf(key: string): string {
  const text = clean(key)
  return text === key && text.length <= KEY_CHARS ? text : `sha256:${hash('sha256', key, 'hex')}`
}

/** A provider's clock may be ahead; what it tells happened at the latest now. */
function momentOf(at: Date, now: number): number {
  const moment = at.getTime()
  return moment >= EARLIEST ? Math.min(moment, now) : now
}

function bounceDetail({ kind, code, reason }: NonNullable<FeedbackEvent['bounce']>) {
  return {
    kind,
    ...(code !== undefined && ENHANCED_CODE.test(code) ? { enhanced_code: code } : {}),
    ...(reason === undefined ? {} : { reason: clean(reason).slice(0, REASON_CHARS).toWellFormed() }),
  }
}

/** What is too large, or has a key that Postgres refuses, is left out: it only adds to the event. */
export function storableDetail(detail: FeedbackEvent['detail'] = {}): Readonly<Record<string, unknown>> {
  const text = JSON.stringify(detail, (_key, value) => (typeof value === 'string' ? clean(value) : value))
  return text.length > DETAIL_CHARS || UNSTORABLE.test(text) ? {} : JSON.parse(text)
}
