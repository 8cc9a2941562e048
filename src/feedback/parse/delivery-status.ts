import { textOf } from '../read-json.ts'
import { type Fields, fieldOf, readGroups } from './fields.ts'
import type { Told } from './mail-report.ts'
import { verdictOf } from './recipient-status.ts'
import { addressOf } from './report.ts'

/** What a delivery status (RFC 3464) says: of the message, and of each recipient. */
export type DeliveryStatus = {
  readonly envelopeId: string | undefined
  readonly told: readonly Told[]
}

export function readDeliveryStatus(content: Buffer): DeliveryStatus {
  const groups = readGroups(content.toString('utf8'))
  return {
    envelopeId: groups.map((group) => fieldOf(group, 'original-envelope-id')).find((id) => id !== undefined),
    // Some write no blank line behind the fields of the message, so every group with an action counts.
    told: groups.filter((group) => group.has('action') || group.has('final-recipient')).map(readRecipient),
  }
}

function readRecipient(fields: Fields): Told {
  const recipient = recipientOf(fields)
  const action = textOf(fieldOf(fields, 'action'))?.toLowerCase().split(/[ (;]/)[0]
  const at = fieldOf(fields, 'last-attempt-date')
  const bounce = () => verdictOf(fieldOf(fields, 'status'), diagnosticOf(fields))
  const detail = { remote_mta: withoutType(fieldOf(fields, 'remote-mta')) }
  switch (action) {
    case 'failed':
      return { type: 'bounced', recipient, at, bounce: bounce(), detail }
    case 'delayed':
      return { type: 'deferred', recipient, at, bounce: bounce(), detail }
    case 'delivered':
      return { type: 'delivered', recipient, at, detail }
    // It left the world that reports, or became several: nobody knows more.
    case 'relayed':
    case 'expanded':
      return { ignored: `a recipient that was ${action}` }
    default:
      return { fault: 'a recipient without one of the actions of RFC 3464' }
  }
}

/** As it was addressed, where the report says so: a mailbox that it was forwarded to is none of ours. */
function recipientOf(fields: Fields): string | undefined {
  return ['original-recipient', 'final-recipient', 'x-actual-recipient']
    .map((name) => addressOf(withoutType(fieldOf(fields, name))?.replace(/^<(.*)>$/, '$1')))
    .find((address) => address !== undefined)
}

function diagnosticOf(fields: Fields): string | undefined {
  return textOf(withoutType(fieldOf(fields, 'diagnostic-code')))
}

/** `rfc822;ann@example.net`, `smtp; 550 …` or `dns;mx.example.net` without the type before the semicolon. */
function withoutType(value: string | undefined): string | undefined {
  return value?.replace(/^\s*[\w-]{1,40}\s*;\s*/, '')
}
