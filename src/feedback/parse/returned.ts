import type { BounceAddresses } from '../../bounce-address.ts'
import { type Fields, fieldOf, readFields, readHeader } from './fields.ts'
import { type Mail, partOf } from './mail.ts'

/** Which of our messages a report is about, as far as it shows. */
export type Subject = {
  readonly sluiceId?: string | undefined
  readonly messageId?: string | undefined
  /** It came back to the message's own bounce address: nobody else could have sent it. */
  readonly isProven: boolean
}

/** Where relays write whom they delivered a mail to, the surest first. */
const RECIPIENT_HEADERS = ['delivered-to', 'x-original-to', 'x-envelope-to', 'envelope-to', 'to'] as const

/** The header of our message, which a report brings back whole or in part. */
export function returnedHeader(mail: Mail): Fields {
  const content = partOf(
    mail,
    'message/rfc822',
    'text/rfc822-headers',
    'message/global',
    'message/global-headers',
  )
  return content === undefined ? returnedInText(mail.text) : readHeader(content)
}

const OUR_LINES = /^[> \t]{0,8}((?:X-Sluice-Id|Message-ID|Return-Path)[ \t]*:[^\r\n]{1,1000})/gim

/** Reports of no standard have it somewhere in their text. */
function returnedInText(text: string): Fields {
  return readFields([...text.matchAll(OUR_LINES)].map(([, line]) => line).join('\n'))
}

/**
 * `forged`: it was sent to a bounce address that we never made. Its own words count for nothing then.
 *
 * @param said what the report itself says of the envelope: the sender (RFC 5965), or its id (RFC 3464)
 */
export function subjectOf(
  mail: Mail,
  returned: Fields,
  said: { readonly sender?: string | undefined; readonly envelopeId?: string | undefined },
  addresses: BounceAddresses,
): Subject | 'forged' {
  const sentTo = RECIPIENT_HEADERS.flatMap((name) => mail.headers(name)).map((text) => addresses.find(text))
  const sentFrom = [...(returned.get('return-path') ?? []), said.sender ?? ''].map((text) =>
    addresses.find(text),
  )
  const proof = [...sentTo, ...sentFrom].find((found) => typeof found === 'object')
  if (typeof proof === 'object') return { sluiceId: proof.messageId, isProven: true }
  if (sentTo.includes('forged')) return 'forged'
  return {
    sluiceId: fieldOf(returned, 'x-sluice-id') ?? said.envelopeId,
    messageId: fieldOf(returned, 'message-id'),
    isProven: false,
  }
}
