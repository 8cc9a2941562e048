import type { BounceAddresses } from '../../bounce-address.ts'
import type { FeedbackEvent } from '../event.ts'
import { readAbuseReport } from './abuse-report.ts'
import { readDeliveryStatus } from './delivery-status.ts'
import { type Mail, partOf, readMail } from './mail.ts'
import { eventOf, keyOf, type Part, type RawFeedback, type Report, reportOf, timeOf } from './report.ts'
import { returnedHeader, type Subject, subjectOf } from './returned.ts'
import { readTextBounce } from './text-bounce.ts'

/** What a mail says of one recipient, before it is known which message it is about. */
export type Told =
  | {
      readonly type: FeedbackEvent['type']
      readonly recipient?: string | undefined
      /** As the report writes it. */
      readonly at?: string | undefined
      readonly bounce?: FeedbackEvent['bounce']
      readonly detail: Readonly<Record<string, unknown>>
    }
  | Exclude<Part, { readonly events: unknown }>

export type MailReportSettings = {
  readonly addresses: BounceAddresses
  /** Only what came back to the bounce address of a message is believed. */
  readonly requiresBounceAddress: boolean
}

/**
 * A mail about our mail: a delivery status (RFC 3464), a complaint (RFC 5965), or a bounce of older make. It is a
 * stranger's, whoever handed it over: what it says counts for the message it can name, and there only for recipients
 * that message was sent to. Takes any bytes, and never rejects.
 */
export async function parseMailReport(raw: RawFeedback, settings: MailReportSettings): Promise<Report> {
  const mail = await readMail(raw.body)
  if (mail === undefined) return reportOf([{ fault: 'not a mail that can be read' }])
  const { told, ...said } = readReport(mail)
  const returned = returnedHeader(mail)
  const subject = subjectOf(mail, returned, said, settings.addresses)
  if (subject === 'forged') return reportOf([{ fault: 'sent to a bounce address that is none of ours' }])
  if (settings.requiresBounceAddress && !subject.isProven) {
    return reportOf([{ fault: 'not sent to the bounce address of a message' }])
  }
  return reportOf(told.slice(0, MAX_RECIPIENTS).map((each) => partOfReport(raw, mail, subject, each)))
}

/** Far more than a message has. */
const MAX_RECIPIENTS = 500

type Said = {
  readonly told: readonly Told[]
  readonly sender?: string | undefined
  readonly envelopeId?: string | undefined
}

/** By the parts that the standards give reports; only a mail without them is looked at as text. */
function readReport(mail: Mail): Said {
  const abuse = partOf(mail, 'message/feedback-report')
  if (abuse !== undefined) return readAbuseReport(abuse)
  const status = partOf(mail, 'message/delivery-status', 'message/global-delivery-status')
  if (status !== undefined) {
    const read = readDeliveryStatus(status)
    return read.told.length > 0 ? read : { told: [{ fault: 'a delivery status without recipients' }] }
  }
  if (partOf(mail, 'message/disposition-notification', 'message/global-disposition-notification')) {
    return { told: [{ ignored: 'a receipt (RFC 8098)' }] }
  }
  const bounce = readTextBounce(mail)
  if (bounce !== undefined) return { told: bounce }
  if (isAutomatic(mail)) return { told: [{ ignored: 'an automatic reply' }] }
  return { told: [{ fault: 'neither a bounce nor a complaint' }] }
}

/** RFC 3834 section 5, and what was used before it. */
function isAutomatic(mail: Mail): boolean {
  return (
    mail.headers('auto-submitted').some((value) => /^auto-(?:replied|generated|notified)\b/i.test(value)) ||
    mail.headers('precedence').some((value) => /^auto_reply\b/i.test(value)) ||
    ['x-autoreply', 'x-autorespond', 'x-autoresponse'].some((name) => mail.headers(name).length > 0)
  )
}

function partOfReport(raw: RawFeedback, mail: Mail, subject: Subject, told: Told): Part {
  if (!('type' in told)) return told
  const { type, recipient, at, bounce, detail } = told
  const { sluiceId, messageId } = subject
  if (sluiceId === undefined && messageId === undefined) {
    return { fault: 'a report that does not show which message it is about' }
  }
  // Handed over twice, it may have other traces of relays; its own Message-ID is the same.
  const [id = raw.eventKey] = mail.headers('message-id')
  const event = eventOf(raw, {
    key: keyOf('dsn', id, sluiceId ?? messageId, type, recipient),
    type,
    at: timeOf(at ?? mail.headers('date')[0], raw.receivedAt),
    sluiceId,
    messageId,
    recipient,
    bounce,
    detail,
  })
  return { events: [event] }
}
