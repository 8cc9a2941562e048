import type { Transaction } from '../db/transaction.ts'
import { removeContent } from '../message-content.ts'
import { findSuppressed } from '../suppression.ts'
import { envelopeOf } from './outgoing.ts'
import * as queries from './queries.ts'

/**
 * Claimed messages without the recipients that were suppressed since they were processed. One without anybody left in
 * `to` ends as `suppressed`, and is not returned. Throws when the list cannot be read: then nothing is claimed.
 */
export async function withoutSuppressed(
  trx: Transaction,
  stream: string,
  claimed: readonly queries.ClaimedMessage[],
): Promise<queries.ClaimedMessage[]> {
  const addresses = claimed.map((each) => envelopeOf(each).to.map((address) => address.toLowerCase()))
  const suppressed = await findSuppressed(trx, stream, [...new Set(addresses.flat())])
  if (suppressed.size === 0) return [...claimed]
  const late: queries.LateSuppression[] = []
  const kept: queries.ClaimedMessage[] = []
  for (const [index, message] of claimed.entries()) {
    const leftOut = (addresses[index] ?? []).filter((address) => suppressed.has(address))
    const shortened =
      leftOut.length === 0 ? message : { ...message, left_out: [...(message.left_out ?? []), ...leftOut] }
    const isOver = leftOut.length > 0 && !hasAnybodyLeft(shortened)
    if (!isOver) kept.push(shortened)
    if (leftOut.length > 0) late.push({ id: message.id, left_out: leftOut, is_over: isOver })
  }
  if (late.length > 0) await queries.noteSuppressed(trx, late)
  const over = late.filter((each) => each.is_over).map(({ id }) => id)
  if (over.length > 0) await removeContent(trx, over)
  return kept
}

/** Copies alone are no mail to send, as in processing; but after an attempt that reached `to`, the rest still is. */
function hasAnybodyLeft(message: queries.ClaimedMessage): boolean {
  if (envelopeOf(message).to.length === 0) return false
  const leftOut = new Set(message.left_out ?? [])
  return message.message.to.some(({ address }) => !leftOut.has(address.toLowerCase()))
}

/** Codes of a refusal that may be about the mailbox; others are about us, the message or the provider. */
const MAILBOX_CODES = ['bad_recipient', 'mailbox_full']

/** What settled messages say of addresses: refusals for good of single recipients. */
export function refusalsOf(settlements: readonly queries.Settlement[], now: Date): queries.RefusalFact[] {
  return settlements.flatMap(({ id, events }) =>
    events
      .filter(
        ({ type, detail }) => type === 'recipient_refused' && MAILBOX_CODES.includes(String(detail?.code)),
      )
      .map(({ type, recipient = '', detail = {} }) => ({
        message_id: id,
        type,
        recipient: recipient.toLowerCase(),
        at: now.toISOString(),
        detail,
      })),
  )
}
