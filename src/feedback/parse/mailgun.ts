import { bounceOf } from '../bounce-kind.ts'
import type { FeedbackEvent } from '../event.ts'
import { field, readJson, textOf } from '../read-json.ts'
import { eventOf, keyOf, type Part, type RawFeedback, type Report, reportOf, timeOf } from './report.ts'

/** documentation.mailgun.com/docs/mailgun/user-manual/events/event-structure: one event, as `event-data`. */
export function parseMailgun(raw: RawFeedback): Report {
  const data = field(readJson(raw.body), 'event-data')
  return reportOf([data === undefined ? { fault: 'no event-data' } : readEvent(raw, data)])
}

function readEvent(raw: RawFeedback, data: unknown): Part {
  const name = textOf(field(data, 'event'))
  if (name === undefined) return { fault: 'a Mailgun event without a name' }
  const told = translate(name, data)
  if (told === undefined) return { ignored: name }
  const at = field(data, 'timestamp')
  const messageId = textOf(field(data, 'message', 'headers', 'message-id'))
  const recipient = field(data, 'recipient')
  const id = field(data, 'id')
  const event = eventOf(raw, {
    key:
      textOf(id) === undefined
        ? keyOf('mailgun', name, messageId, at, recipient)
        : keyOf('mailgun', id, recipient),
    at: timeOf(at, raw.receivedAt),
    sluiceId: field(data, 'user-variables', 'sluice_id'),
    messageId,
    providerMessageId: messageId,
    recipient,
    ...told,
  })
  return { events: [event] }
}

type Told = Pick<FeedbackEvent, 'type'> & {
  bounce?: FeedbackEvent['bounce']
  detail?: Record<string, unknown>
}

function translate(name: string, data: unknown): Told | undefined {
  switch (name) {
    case 'delivered':
      return { type: 'delivered', detail: { reply: field(data, 'delivery-status', 'message') } }
    case 'failed':
      return translateFailure(data)
    case 'rejected':
      return { type: 'rejected', detail: { reason: field(data, 'reject', 'reason') } }
    case 'complained':
      return { type: 'complained' }
    case 'unsubscribed':
      return { type: 'unsubscribed', detail: { user_agent: field(data, 'client-info', 'user-agent') } }
    case 'opened':
    case 'clicked':
      return {
        type: name,
        detail: { url: field(data, 'url'), user_agent: field(data, 'client-info', 'user-agent') },
      }
    default:
      return undefined
  }
}

function translateFailure(data: unknown): Told {
  const status = field(data, 'delivery-status')
  const reason = textOf(field(status, 'message')) ?? textOf(field(status, 'description'))
  const code = textOf(field(status, 'enhanced-code'))
  const why = textOf(field(data, 'reason')) ?? ''
  if (field(data, 'severity') === 'temporary')
    return { type: 'deferred', bounce: bounceOf('soft', code, reason) }
  // Not tried at all: Mailgun's own lists of complaints and unsubscribes hold the address.
  if (why === 'suppress-complaint' || why === 'suppress-unsubscribe') {
    return { type: 'rejected', detail: { reason: why } }
  }
  return { type: 'bounced', bounce: bounceOf(claimedKind(why), code, reason), detail: { why } }
}

/** `old`: given up after hours of temporary failures. `espblock`: the receiver blocks the sender. */
function claimedKind(why: string): 'hard' | 'soft' | 'undetermined' {
  if (why === 'old') return 'soft'
  return why === 'espblock' ? 'undetermined' : 'hard'
}
