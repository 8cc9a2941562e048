import { parseAddress } from '../../message/address.ts'
import { digestKey } from '../digest-key.ts'
import type { FeedbackEvent } from '../event.ts'
import { textOf } from '../read-json.ts'

/** A stored delivery, as its parser gets it. */
export type RawFeedback = {
  readonly endpoint: string
  /** The delivery's own id, or a digest of it. */
  readonly eventKey: string
  readonly receivedAt: Date
  /** Name of the provider it is about, or ''. */
  readonly provider: string
  readonly body: Buffer
}

/** What a delivery says. A part that cannot be read does not take the others with it. */
export type Report = {
  readonly events: readonly FeedbackEvent[]
  /** What we have no use for, by the provider's own names. */
  readonly ignored: readonly string[]
  /** What should have been understood and was not. */
  readonly faults: readonly string[]
}

export type Parser = (raw: RawFeedback) => Report

export function reportOf(parts: readonly Part[]): Report {
  return {
    events: parts.flatMap((part) => ('events' in part ? part.events : [])),
    ignored: parts.flatMap((part) => ('ignored' in part ? [part.ignored] : [])),
    faults: parts.flatMap((part) => ('fault' in part ? [part.fault] : [])),
  }
}

/** What one event of a delivery came to. */
export type Part =
  | { readonly events: readonly FeedbackEvent[] }
  | { readonly ignored: string }
  | { readonly fault: string }

export type EventParts = {
  readonly key: string
  readonly type: FeedbackEvent['type']
  readonly at: Date
  readonly sluiceId?: unknown
  readonly messageId?: unknown
  readonly providerMessageId?: unknown
  readonly recipient?: unknown
  readonly bounce?: FeedbackEvent['bounce'] | undefined
  readonly detail?: Readonly<Record<string, unknown>>
}

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i

/** Puts an event together from what a report holds, leaving out what is missing or is not what it should be. */
export function eventOf(raw: RawFeedback, parts: EventParts): FeedbackEvent {
  const sluiceId = textOf(parts.sluiceId)
  const messageId = textOf(parts.messageId)
  const providerMessageId = textOf(parts.providerMessageId)
  const recipient = addressOf(parts.recipient)
  const detail = smallDetail(parts.detail ?? {})
  return {
    key: parts.key,
    type: parts.type,
    at: parts.at,
    provider: raw.provider,
    match: {
      ...(sluiceId !== undefined && UUID.test(sluiceId) ? { sluiceId: sluiceId.toLowerCase() } : {}),
      ...(messageId === undefined ? {} : { messageId }),
      ...(providerMessageId === undefined ? {} : { providerMessageId }),
    },
    ...(recipient === undefined ? {} : { recipient }),
    ...(parts.bounce === undefined ? {} : { bounce: parts.bounce }),
    ...(Object.keys(detail).length === 0 ? {} : { detail }),
  }
}

/** `kind:` and a digest: of one length whatever a provider calls its events, and never another provider's. */
export function keyOf(kind: string, ...parts: readonly unknown[]): string {
  return `${kind}:${digestKey(...parts.map((part) => textOf(part) ?? ''))}`
}

/** The bare address of `a@b` or `Name <a@b>`, its domain in lower case; undefined for anything else. */
export function addressOf(value: unknown): string | undefined {
  const text = textOf(value)
  const parsed = text === undefined ? undefined : parseAddress(text)
  return parsed?.ok ? parsed.address.address : undefined
}

/** Before this no mail of ours was sent, and after tomorrow none is yet. */
const EARLIEST_MS = Date.UTC(2000, 0, 1)
const AHEAD_MS = 86_400_000

/** A time as ISO text or in seconds since the epoch; when it was received, where it makes no sense. */
export function timeOf(value: unknown, receivedAt: Date): Date {
  const ms =
    typeof value === 'number' ? value * 1_000 : typeof value === 'string' ? Date.parse(value) : Number.NaN
  const isPlausible = ms >= EARLIEST_MS && ms <= receivedAt.getTime() + AHEAD_MS
  return isPlausible ? new Date(ms) : receivedAt
}

function smallDetail(detail: Readonly<Record<string, unknown>>): Record<string, string | boolean> {
  return Object.fromEntries(
    Object.entries(detail).flatMap(([name, value]) => {
      const kept = typeof value === 'boolean' ? value : textOf(value)
      return kept === undefined ? [] : [[name, kept]]
    }),
  )
}
