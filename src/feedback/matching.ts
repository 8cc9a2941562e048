import type { Transaction } from '../db/transaction.ts'
import { providerRefOf } from '../provider-message-id.ts'
import type { FeedbackEvent } from './event.ts'
import * as queries from './queries.ts'
import { clean } from './storable.ts'

const UUID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i
/** As dispatch makes it: `<id@sender-domain>`. */
const OUR_MESSAGE_ID = /^<?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})@[^<>@\s]+>?$/i

export type Matched = { readonly event: FeedbackEvent; readonly messageId: string }

export type Unmatched = {
  readonly event: FeedbackEvent
  /** The message it is about, which cannot take it yet; null when none is known. */
  readonly messageId: string | null
}

export type MatchedEvents = {
  readonly matched: Matched[]
  readonly unmatched: Unmatched[]
  /** Those about sensitive mail, matched or not: what was said with them may quote it. */
  readonly sensitive: ReadonlySet<FeedbackEvent>
}

/**
 * Finds the message of each event and locks it until the transaction ends. Messages that feedback alone changes are
 * waited for, in one order everywhere, so that two batches cannot wait for each other; all others that somebody
 * holds are left for later, so that feedback never waits for dispatch.
 */
export async function matchEvents(
  trx: Transaction,
  events: readonly FeedbackEvent[],
): Promise<MatchedEvents> {
  const refs = await queries.findReferences(trx, events.flatMap(wantedRefs))
  const candidates = events.map((event) => [...ownIds(event), ...referredIds(event, refs)])
  const ids = [...new Set(candidates.flat())]
  const settled = await queries.lockSettled(trx, ids)
  const ready = new Set(settled.map(({ id }) => id))
  const unsettled = await queries.lockOthers(
    trx,
    ids.filter((id) => !ready.has(id)),
  )
  const waiting = new Set<string>()
  for (const { id, is_ready: isReady } of unsettled) {
    if (isReady) ready.add(id)
    else waiting.add(id)
  }
  const secret = new Set([...settled, ...unsettled].filter((row) => row.is_sensitive).map(({ id }) => id))

  const matched: Matched[] = []
  const unmatched: Unmatched[] = []
  const sensitive = new Set<FeedbackEvent>()
  for (const [index, event] of events.entries()) {
    const own = candidates[index] ?? []
    const messageId = own.find((id) => ready.has(id) || waiting.has(id))
    if (messageId !== undefined && ready.has(messageId)) matched.push({ event, messageId })
    else unmatched.push({ event, messageId: messageId ?? null })
    if (messageId !== undefined && secret.has(messageId)) sensitive.add(event)
  }
  return { matched, unmatched, sensitive }
}

/** The ids of ours that an event carries, the surest first. */
function ownIds({ match }: FeedbackEvent): string[] {
  const [, fromHeader] = OUR_MESSAGE_ID.exec(match.messageId?.trim() ?? '') ?? []
  return [match.sluiceId?.trim(), fromHeader]
    .filter((id) => id !== undefined && UUID.test(id))
    .map((id) => (id as string).toLowerCase())
}

/** Some providers write a Message-ID of their own, which is their id of the message. */
function providerIds({ match }: FeedbackEvent): string[] {
  return [match.providerMessageId, match.messageId]
    .filter((id) => id !== undefined)
    .map((id) => providerRefOf(clean(id)))
    .filter((id) => id !== '')
}

function wantedRefs(event: FeedbackEvent): queries.WantedReference[] {
  if (ownIds(event).length > 0) return []
  return providerIds(event).map((id) => ({ provider: clean(event.provider), id }))
}

function referredIds(event: FeedbackEvent, refs: readonly queries.Reference[]): string[] {
  if (ownIds(event).length > 0) return []
  const wanted = providerIds(event)
  return refs
    .filter(({ provider, id }) => provider === clean(event.provider) && wanted.includes(id))
    .map(({ message_id: messageId }) => messageId)
}
