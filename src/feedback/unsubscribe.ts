import type { Database } from '../db/pool.ts'
import { inTransaction } from '../db/transaction.ts'
import type { Unsubscription } from '../unsubscribe-links.ts'
import { applyMatched } from './apply.ts'
import type { FeedbackEvent } from './event.ts'
import * as queries from './queries.ts'

/**
 * Takes the address off a stream, for good and at once, with the event of the message that offered it. Asked again it
 * changes nothing; after somebody put the address back, the same link takes it off again.
 *
 * A message that is still being settled gets its event a moment later; one that left with old mail gets none.
 */
export async function unsubscribe(db: Database, unsubscription: Unsubscription, at: Date): Promise<void> {
  const event = eventOf(unsubscription, at)
  await inTransaction(db, async (trx) => {
    // Before the list: whoever applies feedback locks messages first, then addresses.
    const { unmatched } = await applyMatched(trx, [event])
    await queries.keepUnmatched(
      trx,
      unmatched.filter(({ messageId }) => messageId !== null),
    )
    await queries.suppressUnsubscribed(trx, unsubscription, at)
  })
}

function eventOf({ messageId, address }: Unsubscription, at: Date): FeedbackEvent {
  return {
    key: `unsubscribe link ${messageId}`,
    type: 'unsubscribed',
    at,
    provider: '',
    match: { sluiceId: messageId },
    recipient: address,
    detail: { by: 'link' },
  }
}
