import { bounceOf } from '../bounce-kind.ts'
import type { FeedbackEvent } from '../event.ts'
import { field, listOf, readJson, textOf } from '../read-json.ts'
import { eventOf, keyOf, type Part, type RawFeedback, type Report, reportOf, timeOf } from './report.ts'

/**
 * Amazon SES through SNS, in both shapes: notifications (`notificationType`) and event publishing (`eventType`):
 * docs.aws.amazon.com/ses/latest/dg/notification-contents.html and …/event-publishing-retrieving-sns-contents.html
 */
export function parseSes(raw: RawFeedback): Report {
  const envelope = readJson(raw.body)
  const type = textOf(field(envelope, 'Type'))
  if (type !== 'Notification') return reportOf([{ ignored: type ?? 'a message without a type' }])
  const message = field(envelope, 'Message')
  // What SES sends to a topic when it is connected to it is a sentence, not JSON.
  if (typeof message === 'string' && message.startsWith('Successfully validated SNS topic')) {
    return reportOf([{ ignored: 'the greeting of a newly connected topic' }])
  }
  const json = typeof message === 'string' ? readJson(message) : undefined
  if (typeof json !== 'object' || json === null) return reportOf([{ fault: 'the SNS message is not JSON' }])
  return reportOf([readMessage(raw, json)])
}

function readMessage(raw: RawFeedback, json: object): Part {
  const name = textOf(field(json, 'eventType')) ?? textOf(field(json, 'notificationType'))
  if (name === undefined) return { fault: 'an SES message without eventType or notificationType' }
  const mail = new SesMail(raw, json)
  switch (name) {
    case 'Delivery':
      return mail.each('delivered', 'delivery', listOf(field(json, 'delivery', 'recipients')), () => ({
        detail: { reply: field(json, 'delivery', 'smtpResponse') },
      }))
    case 'Bounce':
      return mail.each(
        'bounced',
        'bounce',
        listOf(field(json, 'bounce', 'bouncedRecipients')),
        (recipient) => ({
          bounce: readBounce(json, recipient),
          detail: {
            type: field(json, 'bounce', 'bounceType'),
            subtype: field(json, 'bounce', 'bounceSubType'),
          },
        }),
      )
    case 'Complaint':
      return readComplaint(mail, json)
    case 'DeliveryDelay':
      return mail.each(
        'deferred',
        'deliveryDelay',
        listOf(field(json, 'deliveryDelay', 'delayedRecipients')),
        (recipient) => ({
          bounce: bounceOf(
            'soft',
            textOf(field(recipient, 'status')),
            textOf(field(recipient, 'diagnosticCode')),
          ),
          detail: { type: field(json, 'deliveryDelay', 'delayType') },
        }),
      )
    case 'Open':
      return mail.one('opened', 'open', { user_agent: field(json, 'open', 'userAgent') })
    case 'Click':
      return mail.one('clicked', 'click', {
        url: field(json, 'click', 'link'),
        user_agent: field(json, 'click', 'userAgent'),
      })
    case 'Reject':
      return mail.one('rejected', 'reject', { reason: field(json, 'reject', 'reason') })
    case 'Rendering Failure':
      return mail.one('rejected', 'failure', { reason: field(json, 'failure', 'errorMessage') })
    case 'Subscription':
      return field(json, 'subscription', 'newTopicPreferences', 'unsubscribeAll') === true
        ? mail.one('unsubscribed', 'subscription', {})
        : { ignored: name }
    default:
      return { ignored: name }
  }
}

/** ".../notification-contents.html#bounce-types". A transient one was tried for hours and given up. */
function readBounce(json: object, recipient: unknown): FeedbackEvent['bounce'] {
  const kinds = { Permanent: 'hard', Transient: 'soft' } as const
  const type = textOf(field(json, 'bounce', 'bounceType'))
  const claimed = type === 'Permanent' || type === 'Transient' ? kinds[type] : 'undetermined'
  return bounceOf(claimed, textOf(field(recipient, 'status')), textOf(field(recipient, 'diagnosticCode')))
}

function readComplaint(mail: SesMail, json: object): Part {
  const feedback = textOf(field(json, 'complaint', 'complaintFeedbackType'))
  // RFC 6430: the recipient says that it is no spam.
  if (feedback === 'not-spam') return { ignored: 'Complaint of type not-spam' }
  const recipients = listOf(field(json, 'complaint', 'complainedRecipients'))
  return mail.each('complained', 'complaint', recipients, () => ({
    detail: {
      feedback,
      user_agent: field(json, 'complaint', 'userAgent'),
      // Mailbox providers hide who complained: SES then lists every recipient at that domain.
      is_one_of_several: recipients.length > 1,
    },
  }))
}

type Extras = {
  readonly bounce?: FeedbackEvent['bounce']
  readonly detail: Readonly<Record<string, unknown>>
}

/** The message an SES event is about, and how its events are made. */
class SesMail {
  readonly #raw: RawFeedback
  readonly #json: object
  readonly #ids: { sluiceId: unknown; messageId: unknown; providerMessageId: unknown }

  constructor(raw: RawFeedback, json: object) {
    const mail = field(json, 'mail')
    const header = (wanted: string) =>
      field(
        listOf(field(mail, 'headers')).find((each) => textOf(field(each, 'name'))?.toLowerCase() === wanted),
        'value',
      )
    this.#raw = raw
    this.#json = json
    this.#ids = {
      sluiceId: header('x-sluice-id'),
      messageId: field(mail, 'commonHeaders', 'messageId') ?? header('message-id'),
      providerMessageId: field(mail, 'messageId'),
    }
  }

  /** One event for each recipient listed, as plain text or as `{emailAddress}`. */
  each(
    type: FeedbackEvent['type'],
    part: string,
    recipients: readonly unknown[],
    extras: (recipient: unknown) => Extras,
  ): Part {
    if (recipients.length === 0) return { fault: `an SES ${part} without recipients` }
    return {
      events: recipients.map((each) =>
        this.#event(type, part, typeof each === 'string' ? each : field(each, 'emailAddress'), extras(each)),
      ),
    }
  }

  /** An event that names nobody: it is the recipient's if there was only one. */
  one(type: FeedbackEvent['type'], part: string, detail: Extras['detail']): Part {
    const destination = listOf(field(this.#json, 'mail', 'destination'))
    return {
      events: [this.#event(type, part, destination.length === 1 ? destination[0] : undefined, { detail })],
    }
  }

  #event(type: FeedbackEvent['type'], part: string, recipient: unknown, extras: Extras): FeedbackEvent {
    const about = field(this.#json, part)
    const at = field(about, 'timestamp')
    // The same bounce may come as a notification and as a published event: both have its feedbackId.
    const id = field(about, 'feedbackId') ?? at ?? this.#raw.eventKey
    return eventOf(this.#raw, {
      key: keyOf('ses', type, this.#ids.providerMessageId, id, recipient, field(about, 'link')),
      type,
      at: timeOf(at, this.#raw.receivedAt),
      ...this.#ids,
      recipient,
      ...extras,
    })
  }
}
