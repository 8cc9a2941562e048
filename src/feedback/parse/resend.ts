import { bounceOf } from '../bounce-kind.ts'
import type { FeedbackEvent } from '../event.ts'
import { field, listOf, readJson, textOf } from '../read-json.ts'
import { eventOf, keyOf, type Part, type RawFeedback, type Report, reportOf, timeOf } from './report.ts'

/** resend.com/docs/webhooks/event-types: one event a delivery. */
export function parseResend(raw: RawFeedback): Report {
  const json = readJson(raw.body)
  const name = textOf(field(json, 'type'))
  return reportOf([
    name === undefined ? { fault: 'a Resend event without a type' } : readEvent(raw, name, json),
  ])
}

const TYPES: Readonly<Record<string, FeedbackEvent['type']>> = {
  'email.delivered': 'delivered',
  'email.delivery_delayed': 'deferred',
  'email.bounced': 'bounced',
  'email.complained': 'complained',
  'email.opened': 'opened',
  'email.clicked': 'clicked',
  'email.failed': 'rejected',
  'email.suppressed': 'rejected',
}

function readEvent(raw: RawFeedback, name: string, json: unknown): Part {
  const type = Object.hasOwn(TYPES, name) ? TYPES[name] : undefined
  if (type === undefined) return { ignored: name }
  const data = field(json, 'data')
  // It does not say whose it is: `to` lists all of them, and no copies. With only one there is no question.
  const event = eventOf(raw, {
    // An event has no id but that of its delivery, which stays the same when it is replayed.
    key: keyOf('resend', raw.eventKey),
    type,
    at: timeOf(field(json, 'created_at'), raw.receivedAt),
    sluiceId: sluiceIdOf(data),
    messageId: field(data, 'message_id'),
    providerMessageId: field(data, 'email_id'),
    bounce: type === 'bounced' ? readBounce(data) : undefined,
    detail: detailOf(data),
  })
  return { events: [event] }
}

/** Tags are an object in events, whatever they were in the request. */
function sluiceIdOf(data: unknown): unknown {
  const tags = field(data, 'tags')
  if (!Array.isArray(tags)) return field(tags, 'sluice_id')
  return field(
    tags.find((tag: unknown) => field(tag, 'name') === 'sluice_id'),
    'value',
  )
}

function readBounce(data: unknown): FeedbackEvent['bounce'] {
  const type = textOf(field(data, 'bounce', 'type'))
  const claimed = type === 'Permanent' ? 'hard' : type === 'Transient' ? 'soft' : 'undetermined'
  const codes = listOf(field(data, 'bounce', 'diagnosticCode')).map((each) => textOf(each) ?? '')
  const said = [...codes, textOf(field(data, 'bounce', 'message')) ?? ''].filter((each) => each !== '')
  return bounceOf(claimed, codes[0], textOf(said.join(' ')))
}

function detailOf(data: unknown): Record<string, unknown> {
  return {
    subtype: field(data, 'bounce', 'subType'),
    reason: field(data, 'failed', 'reason') ?? field(data, 'suppressed', 'message'),
    url: field(data, 'click', 'link'),
    user_agent: field(data, 'click', 'userAgent'),
  }
}
