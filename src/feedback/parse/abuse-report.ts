import { textOf } from '../read-json.ts'
import { fieldOf, readFields } from './fields.ts'
import type { Told } from './mail-report.ts'
import { addressOf } from './report.ts'

/** What an abuse report (ARF, RFC 5965) says. */
export type AbuseReport = {
  /** Its envelope sender, as the complaining side saw it. */
  readonly sender: string | undefined
  readonly told: readonly Told[]
}

/** RFC 5965 section 7.3. `opt-out` is of its drafts, and still sent. */
const COMPLAINTS = ['abuse', 'fraud', 'virus', 'other']

export function readAbuseReport(content: Buffer): AbuseReport {
  const fields = readFields(content.toString('utf8'))
  const feedback = textOf(fieldOf(fields, 'feedback-type'))?.toLowerCase()
  const sender = fieldOf(fields, 'original-mail-from')
  const type = feedback === 'opt-out' ? 'unsubscribed' : 'complained'
  if (feedback === undefined) return { sender, told: [{ fault: 'an abuse report without Feedback-Type' }] }
  if (type === 'complained' && !COMPLAINTS.includes(feedback)) {
    return { sender, told: [{ ignored: `an abuse report of type ${feedback}` }] }
  }
  const recipients = (fields.get('original-rcpt-to') ?? []).map((text) =>
    addressOf(text.replace(/^<(.*)>$/, '$1')),
  )
  const named = recipients.filter((recipient) => recipient !== undefined)
  const told: Told = {
    type,
    at: fieldOf(fields, 'arrival-date') ?? fieldOf(fields, 'received-date'),
    detail: { feedback, user_agent: fieldOf(fields, 'user-agent') },
  }
  // Many hide who complained: a message to one recipient tells all the same.
  return { sender, told: named.length === 0 ? [told] : named.map((recipient) => ({ ...told, recipient })) }
}
