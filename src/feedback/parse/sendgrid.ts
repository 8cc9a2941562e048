import { bounceOf } from '../bounce-kind.ts'
import type { FeedbackEvent } from '../event.ts'
import { field, readJson, textOf } from '../read-json.ts'
import {
  type EventParts,
  eventOf,
  keyOf,
  type Part,
  type RawFeedback,
  type Report,
  reportOf,
  timeOf,
} from './report.ts'

/** twilio.com/docs/sendgrid/for-developers/tracking-events/event: a list of events of any number of messages. */
export function parseSendGrid(raw: RawFeedback): Report {
  const json = readJson(raw.body)
  if (!Array.isArray(json)) return reportOf([{ fault: 'not a list of SendGrid events' }])
  return reportOf(json.map((event: unknown) => readEvent(raw, event)))
}

const TYPES: Readonly<Record<string, FeedbackEvent['type']>> = {
  delivered: 'delivered',
  deferred: 'deferred',
  bounce: 'bounced',
  blocked: 'bounced',
  dropped: 'rejected',
  open: 'opened',
  click: 'clicked',
  spamreport: 'complained',
  unsubscribe: 'unsubscribed',
  group_unsubscribe: 'unsubscribed',
}

/** Dropped without a try, because SendGrid knows of an earlier bounce of this address. */
const KNOWN_DEAD = new Set(['Bounced Address', 'Invalid'])

function readEvent(raw: RawFeedback, event: unknown): Part {
  const name = textOf(field(event, 'event'))
  if (name === undefined) return { fault: 'a SendGrid event without a name' }
  const known = Object.hasOwn(TYPES, name) ? TYPES[name] : undefined
  if (known === undefined) return { ignored: name }
  const reason = textOf(field(event, 'reason')) ?? textOf(field(event, 'response'))
  const isKnownDead = name === 'dropped' && KNOWN_DEAD.has(reason ?? '')
  const type = isKnownDead ? 'bounced' : known
  return { events: [eventOf(raw, { ...common(raw, event, name), type, ...details(event, type, reason) })] }
}

function common(raw: RawFeedback, event: unknown, name: string): Omit<EventParts, 'type'> {
  const at = field(event, 'timestamp')
  const recipient = field(event, 'email')
  const messageId = textOf(field(event, 'sg_message_id'))
  const id = field(event, 'sg_event_id')
  return {
    key:
      textOf(id) === undefined
        ? keyOf('sendgrid', name, messageId, at, recipient, field(event, 'url'))
        : keyOf('sendgrid', id),
    at: timeOf(at, raw.receivedAt),
    // A custom argument, which stands among the event's own fields.
    sluiceId: field(event, 'sluice_id'),
    messageId: field(event, 'smtp-id'),
    // The X-Message-Id of the answer, and the machine that filtered it.
    providerMessageId: messageId?.split(/\.(?:filter|recvd)/)[0],
    recipient,
  }
}

function details(
  event: unknown,
  type: FeedbackEvent['type'],
  reason: string | undefined,
): Pick<EventParts, 'bounce' | 'detail'> {
  const status = textOf(field(event, 'status'))
  switch (type) {
    case 'bounced':
      return { bounce: bounceOf(claimedKind(event), status, reason), detail: { type: field(event, 'type') } }
    case 'deferred':
      return { bounce: bounceOf('soft', status, reason), detail: { attempt: field(event, 'attempt') } }
    case 'delivered':
      return { detail: { reply: reason } }
    case 'rejected':
      return { detail: { reason } }
    default:
      return {
        detail: {
          url: field(event, 'url'),
          user_agent: field(event, 'useragent'),
          group: field(event, 'asm_group_id'),
          is_machine: field(event, 'sg_machine_open') === true ? true : undefined,
        },
      }
  }
}

/** By its `bounce_classification` where it has one; `blocked` and `expired` may pass. */
function claimedKind(event: unknown): 'hard' | 'soft' | 'undetermined' {
  switch (textOf(field(event, 'bounce_classification'))?.toLowerCase()) {
    case 'invalid address':
      return 'hard'
    case 'mailbox unavailable':
    case 'technical':
    case 'technical failure':
      return 'soft'
    case 'content':
    case 'reputation':
    case 'frequency/volume':
    case 'frequency or volume too high':
      return 'undetermined'
  }
  const type = textOf(field(event, 'type')) ?? textOf(field(event, 'event'))
  return type === 'blocked' || type === 'expired' ? 'soft' : 'hard'
}
