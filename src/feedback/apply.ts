import type { Transaction } from '../db/transaction.ts'
import { removeContent } from '../message-content.ts'
import type { FeedbackEvent } from './event.ts'
import { type MatchedEvents, matchEvents, type Unmatched } from './matching.ts'
import * as queries from './queries.ts'
import { storable } from './storable.ts'

/** What the rules of suppression look at. */
const SWAYING: readonly FeedbackEvent['type'][] = ['delivered', 'bounced', 'complained', 'unsubscribed']

/**
 * Writes what providers say into the timeline and the status of our messages, and keeps mail from addresses that
 * bounced or complained. Any order, any repetition and any number of workers come to the same end state: an event
 * counts once by its key, a status is the worst that all events of the message say, and a message's row is locked
 * while it is worked out.
 *
 * An event without a message of ours, or whose message is still under way, waits in `mail.feedback_unmatched`. It
 * suppresses nobody: whoever holds an account with a provider could name any address.
 *
 * Once a transaction, with all its events: the locks of a second call could cross those of another worker.
 *
 * Returns the events that are about sensitive mail.
 */
export async function applyFeedback(
  trx: Transaction,
  events: readonly FeedbackEvent[],
): Promise<ReadonlySet<FeedbackEvent>> {
  const { unmatched, sensitive } = await applyMatched(trx, events)
  const kept = unmatched.map((each) => (sensitive.has(each.event) ? withoutWords(each) : each))
  await queries.keepUnmatched(trx, kept)
  return sensitive
}

function withoutWords({ event, messageId }: Unmatched): Unmatched {
  const { detail: _, bounce, ...rest } = event
  if (bounce === undefined) return { event: rest, messageId }
  const { reason: __, ...codes } = bounce
  return { event: { ...rest, bounce: codes }, messageId }
}

/** As `applyFeedback`, but returns what could not be applied. */
export async function applyMatched(
  trx: Transaction,
  events: readonly FeedbackEvent[],
): Promise<Omit<MatchedEvents, 'matched'>> {
  const { matched, ...rest } = await matchEvents(trx, events)
  if (matched.length === 0) return rest
  const now = Date.now()
  const told = matched.map(({ event, messageId }) => ({ message_id: messageId, ...storable(event, now) }))
  const fresh = await queries.applyEvents(trx, told)
  // The recipient of a report is only believed when we sent to it: a forged one must not silence a stranger.
  const facts = fresh.filter(({ type, is_recipient: isRecipient }) => isRecipient && SWAYING.includes(type))
  if (facts.length > 0) await queries.suppressAfter(trx, facts)
  // An event settles what was in doubt. After the rules above, which read nothing of it.
  if (fresh.length > 0) await removeContent(trx, [...new Set(fresh.map((event) => event.message_id))])
  return rest
}
