import type { Address, Attachment } from '../message/message.ts'
import type { StoredContent } from './attachment-store.ts'
import type { OutgoingMail } from './compose.ts'
import type { OutgoingAttachment } from './mime/attachment-part.ts'
import type { ClaimedMessage } from './queries.ts'
import { openAttachment, unreadable } from './sensitive.ts'
import type { Envelope, Outgoing, SendOutcome } from './transport.ts'

/** Processing queues nothing without a sender; composing refuses this one all the same. */
const NOBODY: Address = { address: '' }

function senderOf({ message, sender }: ClaimedMessage): Address {
  return message.from ?? sender ?? NOBODY
}

/**
 * Who gets this attempt: every recipient but those suppressed and those an earlier attempt settled. Bounces go to
 * `returnPath`, or to the sender. Providers with an HTTP API have return paths of their own, and take none.
 */
export function envelopeOf(claimed: ClaimedMessage, returnPath?: string): Envelope {
  const { message, left_out: leftOut, settled } = claimed
  const skipped = new Set([...(leftOut ?? []), ...(settled ?? [])].map((address) => address.toLowerCase()))
  const everyone = [...message.to, ...message.cc, ...message.bcc].map(({ address }) => address)
  const to = [...new Map(everyone.map((address) => [address.toLowerCase(), address])).entries()]
    .filter(([key]) => !skipped.has(key))
    .map(([, address]) => address)
  return { from: returnPath ?? senderOf(claimed).address, to }
}

/**
 * The mail itself. Its Message-ID is the same on every attempt, whatever process sends it, so that a
 * receiver can recognise a duplicate: it is made of the message's id and the sender's domain.
 */
export function outgoingMail(claimed: ClaimedMessage, contents: ReadonlyMap<string, Buffer>): OutgoingMail {
  const { id, message, accepted_at: date } = claimed
  const from = senderOf(claimed)
  const leftOut = new Set(claimed.left_out ?? [])
  const shown = (list: readonly Address[]) =>
    list.filter(({ address }) => !leftOut.has(address.toLowerCase()))
  const html = claimed.html ?? message.html
  const text = claimed.text ?? message.text
  const attachments = attachmentsOf(claimed)
  return {
    id,
    messageId: `<${id}@${from.address.split('@')[1]}>`,
    date,
    from,
    to: shown(message.to),
    cc: shown(message.cc),
    replyTo: message.reply_to.length > 0 ? message.reply_to : (claimed.reply_to ?? []),
    subject: message.subject ?? claimed.subject ?? '',
    headers: headersOf(claimed),
    ...(html === undefined || html === null ? {} : { html }),
    // An empty text beside HTML asks for a mail without a text part.
    ...(text === undefined || text === null || (text === '' && html) ? {} : { text }),
    ...(attachments.length === 0
      ? {}
      : { attachments: attachments.flatMap((each) => withContent(each, contents)) }),
  }
}

/** As the message names them, or as processing does when it had to fetch some. */
function attachmentsOf({ attachments, message }: ClaimedMessage): readonly Attachment[] {
  return attachments ?? message.attachments ?? []
}

/** What must be loaded to send it. */
export function contentsOf(claimed: ClaimedMessage): readonly StoredContent[] {
  return attachmentsOf(claimed).flatMap((each) =>
    'sha256' in each ? [{ sha256: each.sha256, size: each.size }] : [],
  )
}

/** Undefined for a message without attachments. */
export function bytesToLoad(claimed: ClaimedMessage): number | undefined {
  if (attachmentsOf(claimed).length === 0) return undefined
  return contentsOf(claimed).reduce((sum, { size }) => sum + size, 0)
}

/** One attempt as it goes out, or the outcome of a message that cannot be put together. */
export function outgoingOf(
  claimed: ClaimedMessage,
  contents: ReadonlyMap<string, Buffer>,
  returnPath: string | undefined,
): Outgoing | SendOutcome {
  const missing = missingAttachment(claimed, contents)
  if (missing !== undefined) return missing
  try {
    return { mail: outgoingMail(claimed, contents), envelope: envelopeOf(claimed, returnPath) }
  } catch (error) {
    return unreadable(error)
  }
}

/** The outcome of a message that cannot be sent whole: no attempt would find what is gone. */
function missingAttachment(
  claimed: ClaimedMessage,
  contents: ReadonlyMap<string, Buffer>,
): SendOutcome | undefined {
  const missing = attachmentsOf(claimed).find((each) => !('sha256' in each && contents.has(each.sha256)))
  if (missing === undefined) return undefined
  const why = 'sha256' in missing ? `its content ${missing.sha256} is gone` : 'it was never fetched'
  const reply = `The attachment ${JSON.stringify(missing.filename)} cannot be sent: ${why}. Send the message anew with it.`
  return { kind: 'refused', code: 'attachment_missing', reply }
}

function withContent(attachment: Attachment, contents: ReadonlyMap<string, Buffer>): OutgoingAttachment[] {
  const content = 'sha256' in attachment ? contents.get(attachment.sha256) : undefined
  if (content === undefined) return []
  const { filename, content_type: contentType, content_id: contentId } = attachment
  const plain = openAttachment(content, 'key' in attachment ? attachment.key : undefined)
  return [{ filename, contentType, content: plain, ...(contentId === undefined ? {} : { contentId }) }]
}

/** With one link in List-Unsubscribe, a POST to it is enough (RFC 8058 section 3.1). */
function headersOf({ message, list_unsubscribe: list }: ClaimedMessage): Readonly<Record<string, string>> {
  if (list === null) return message.headers
  const others = Object.entries(message.headers).filter(
    ([name]) => name.toLowerCase() !== 'list-unsubscribe-post',
  )
  return {
    ...Object.fromEntries(others),
    'List-Unsubscribe': list,
    ...(list.startsWith('<http') && { 'List-Unsubscribe-Post': 'List-Unsubscribe=One-Click' }),
  }
}
