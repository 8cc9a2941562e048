import { setTimeout as delay } from 'node:timers/promises'
import type { MessageState } from '../../src/states.ts'
import type { Ledger } from './ledger.ts'
import type { Queryable } from './queryable.ts'

const LOOK_MS = 250
/** Longer than every wait that the streams of a run know by default: a retry, a rescue, a breaker's cooldown. */
const STALL_MS = 90_000
/** States that a message leaves by itself. */
export const MOVING: readonly MessageState[] = ['accepted', 'scheduled', 'queued', 'sending', 'deferred']
/** States in which a message stays until a person, or a provider, says otherwise. */
const VISIBLE: readonly MessageState[] = ['dead', 'unknown', 'suppressed', 'canceled']

/**
 * Waits until nothing moves any more: both doors empty, every message at an end. Then the ledger knows which of the messages
 * that did not come out can be seen by a person; and what stands still, when nothing has changed for so long that nothing will.
 */
export async function untilDrained({ query }: Queryable, ledger: Ledger, stallMs = STALL_MS): Promise<void> {
  let seen = ''
  let changedAt = performance.now()
  for (;;) {
    // Postgres may be away for a moment; that too is a state that passes.
    const where = await placesOf(query).catch(() => undefined)
    if (where === '') break
    if (performance.now() - changedAt > stallMs) {
      ledger.noteStuck(
        `nothing has moved for ${stallMs / 1_000} s, and there is ${where ?? 'no answer of Postgres'}`,
      )
      break
    }
    const now = JSON.stringify([where, ledger.delivered])
    if (now !== seen) changedAt = performance.now()
    seen = now
    await delay(LOOK_MS)
  }
  const rows = await query<{ id: string }>(
    'select id from mail.message where id = any($1::uuid[]) and status = any($2::text[])',
    [ledger.missing(), VISIBLE],
  )
  ledger.noteVisible(rows.map(({ id }) => id))
}

/** How much is in each place that mail leaves by itself: `3 sending, 1 at a door`; empty when nothing is. */
async function placesOf(query: Queryable['query']): Promise<string> {
  const rows = await query<{ place: string; messages: number }>(
    `select status as place, count(*)::integer as messages from mail.message where status = any($1::text[]) group by status
     union all
     select 'at a door', count(*)::integer from (
       select from mail.intake union all select from mail.outbox
     ) door having count(*) > 0
     order by place`,
    [MOVING],
  )
  return rows.map(({ place, messages }) => `${messages} ${place}`).join(', ')
}
