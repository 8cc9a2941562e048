import { bounceOf } from '../bounce-kind.ts'
import type { FeedbackEvent } from '../event.ts'
import { field, readJson, textOf } from '../read-json.ts'
import { eventOf, keyOf, type Part, type RawFeedback, type Report, reportOf, timeOf } from './report.ts'

/** postmarkapp.com/developer/webhooks/webhooks-overview: one event a delivery, by its `RecordType`. */
export function parsePostmark(raw: RawFeedback): Report {
  const json = readJson(raw.body)
  if (typeof json !== 'object' || json === null) return reportOf([{ fault: 'not a Postmark event' }])
  return reportOf([readEvent(raw, json)])
}

type Told = Pick<FeedbackEvent, 'type'> & {
  readonly bounce?: FeedbackEvent['bounce']
  readonly detail?: Record<string, unknown>
}

function readEvent(raw: RawFeedback, json: object): Part {
  const record = textOf(field(json, 'RecordType'))
  if (record === undefined) return { fault: 'a Postmark event without RecordType' }
  const told = translate(record, json)
  if (typeof told === 'string') return { ignored: told }
  const at = ['DeliveredAt', 'BouncedAt', 'ReceivedAt', 'ChangedAt']
    .map((name) => field(json, name))
    .find((value) => textOf(value) !== undefined)
  const recipient = field(json, 'Recipient') ?? field(json, 'Email')
  const id = field(json, 'MessageID')
  const event = eventOf(raw, {
    key: keyOf('postmark', record, id, field(json, 'ID'), at, recipient, field(json, 'OriginalLink')),
    at: timeOf(at, raw.receivedAt),
    sluiceId: field(json, 'Metadata', 'sluice_id'),
    providerMessageId: id,
    recipient,
    ...told,
  })
  return { events: [event] }
}

/** The event, or the name of what is ignored. */
function translate(record: string, json: object): Told | string {
  switch (record) {
    case 'Delivery':
      return { type: 'delivered', detail: { reply: field(json, 'Details') } }
    case 'Bounce':
      return translateBounce(json)
    case 'SpamComplaint':
      return { type: 'complained' }
    case 'Open':
      return { type: 'opened', detail: { user_agent: field(json, 'UserAgent') } }
    case 'Click':
      return {
        type: 'clicked',
        detail: { url: field(json, 'OriginalLink'), user_agent: field(json, 'UserAgent') },
      }
    case 'SubscriptionChange':
      // Bounces and complaints have a record of their own, which says more.
      return field(json, 'SuppressSending') === true &&
        field(json, 'SuppressionReason') === 'ManualSuppression'
        ? { type: 'unsubscribed', detail: { origin: field(json, 'Origin') } }
        : 'SubscriptionChange'
    default:
      return record
  }
}

/** postmarkapp.com/developer/api/bounce-api#bounce-types */
const BOUNCES: Readonly<Record<string, 'hard' | 'soft' | 'undetermined' | FeedbackEvent['type']>> = {
  HardBounce: 'hard',
  BadEmailAddress: 'hard',
  Transient: 'soft',
  SoftBounce: 'soft',
  DnsError: 'soft',
  SpamNotification: 'undetermined',
  VirusNotification: 'undetermined',
  Blocked: 'undetermined',
  DMARCPolicy: 'undetermined',
  Unknown: 'undetermined',
  ManuallyDeactivated: 'rejected',
  Unconfirmed: 'rejected',
  SMTPApiError: 'rejected',
  TemplateRenderingFailed: 'rejected',
  SpamComplaint: 'complained',
  Unsubscribe: 'unsubscribed',
}

function translateBounce(json: object): Told | string {
  const type = textOf(field(json, 'Type')) ?? 'Unknown'
  const meaning = Object.hasOwn(BOUNCES, type) ? BOUNCES[type] : undefined
  const reason = textOf(field(json, 'Details')) ?? textOf(field(json, 'Description'))
  switch (meaning) {
    // Automatic replies, address changes, challenges: the mail arrived.
    case undefined:
      return `Bounce of type ${type}`
    case 'hard':
    case 'soft':
    case 'undetermined':
      return { type: 'bounced', bounce: bounceOf(meaning, undefined, reason), detail: { type } }
    default:
      return { type: meaning, detail: { reason: reason ?? type } }
  }
}
