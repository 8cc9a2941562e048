import type { Address } from '../message.ts'
import type { OutgoingMail } from './compose.ts'
import type { ClaimedMessage } from './queries.ts'
import type { Envelope } from './transport.ts'

/** Processing queues nothing without a sender; composing refuses this one all the same. */
const NOBODY: Address = { address: '' }

function senderOf({ message, sender }: ClaimedMessage): Address {
  return message.from ?? sender ?? NOBODY
}

/** Who gets this attempt: every recipient but those suppressed and those an earlier attempt settled. */
export function envelopeOf(claimed: ClaimedMessage): Envelope {
  const { message, left_out: leftOut, settled } = claimed
  const skipped = new Set([...(leftOut ?? []), ...(settled ?? [])].map((address) => address.toLowerCase()))
  const everyone = [...message.to, ...message.cc, ...message.bcc].map(({ address }) => address)
  const to = [...new Map(everyone.map((address) => [address.toLowerCase(), address])).entries()]
    .filter(([key]) => !skipped.has(key))
    .map(([, address]) => address)
  return { from: senderOf(claimed).address, to }
}

/**
 * The mail itself. Its Message-ID is the same on every attempt, whatever process sends it, so that a
 * receiver can recognise a duplicate: it is made of the message's id and the sender's domain.
 */
export function outgoingMail(claimed: ClaimedMessage): OutgoingMail {
  const { id, message, accepted_at: date } = claimed
  const from = senderOf(claimed)
  const leftOut = new Set(claimed.left_out ?? [])
  const shown = (list: readonly Address[]) =>
    list.filter(({ address }) => !leftOut.has(address.toLowerCase()))
  const html = claimed.html ?? message.html
  const text = claimed.text ?? message.text
  return {
    id,
    messageId: `<${id}@${from.address.split('@')[1]}>`,
    date,
    from,
    to: shown(message.to),
    cc: shown(message.cc),
    replyTo: message.reply_to.length > 0 ? message.reply_to : (claimed.reply_to ?? []),
    subject: message.subject ?? claimed.subject ?? '',
    headers: message.headers,
    ...(html === undefined || html === null ? {} : { html }),
    ...(text === undefined || text === null ? {} : { text }),
  }
}
