import { bounceOf } from '../bounce-kind.ts'
import { FEEDBACK_TYPES } from '../event.ts'
import { field, readJson, textOf } from '../read-json.ts'
import { eventOf, keyOf, type Part, type RawFeedback, type Report, reportOf, timeOf } from './report.ts'

/** Sluice's own shape, for everything else that knows what became of mail: docs/feedback.md describes it. */
export function parseGeneric(raw: RawFeedback): Report {
  const json = readJson(raw.body)
  const events = field(json, 'events')
  if (!Array.isArray(events)) return reportOf([{ fault: 'no list `events`' }])
  return reportOf(events.map((event: unknown, index) => readEvent(raw, event, index)))
}

function readEvent(raw: RawFeedback, event: unknown, index: number): Part {
  const name = textOf(field(event, 'type'))
  if (name === undefined) return { fault: `events[${index}] has no \`type\`` }
  const type = FEEDBACK_TYPES.find((known) => known === name)
  if (type === undefined) return { ignored: name }
  const key = textOf(field(event, 'key'))
  const bounce = field(event, 'bounce')
  const detail = field(event, 'detail')
  return {
    events: [
      eventOf(raw, {
        // Keys are the endpoint's own: one sender cannot use up those of another.
        key: keyOf('generic', raw.endpoint, ...(key === undefined ? [raw.eventKey, index] : [key])),
        type,
        at: timeOf(field(event, 'at'), raw.receivedAt),
        sluiceId: field(event, 'sluice_id'),
        messageId: field(event, 'message_id'),
        providerMessageId: field(event, 'provider_message_id'),
        recipient: field(event, 'recipient'),
        bounce:
          type === 'bounced' || type === 'deferred'
            ? bounceOf(
                claimedKind(field(bounce, 'kind')),
                textOf(field(bounce, 'code')),
                textOf(field(bounce, 'reason')),
              )
            : undefined,
        detail: typeof detail === 'object' && detail !== null ? { ...detail } : {},
      }),
    ],
  }
}

function claimedKind(kind: unknown): 'hard' | 'soft' | 'undetermined' {
  return kind === 'hard' || kind === 'soft' ? kind : 'undetermined'
}
