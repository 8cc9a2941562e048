import type { Database } from '../db/pool.ts'
import { isLastingFault } from '../db/sqlstate.ts'
import { inTransaction } from '../db/transaction.ts'
import type { Log } from '../log.ts'
import { Loop } from '../loop.ts'
import { applyMatched } from './apply.ts'
import * as queries from './queries.ts'

/**
 * Tries again what could not be applied: a webhook is often faster than the commit of the send it speaks of.
 *
 * Takes in: rows of `mail.feedback_unmatched` whose time has come. Leaves behind, in one transaction: the events
 * applied and their rows gone, or the rows with a later time. If the process dies anywhere before the commit,
 * nothing happened.
 */

const IDLE_MS = 1_000
const BATCH = 200
const LONGEST_DELAY_MS = 3_600_000
/** 1 s, 2 s, 4 s …: about half an hour for a message that is not known here. */
const TRIES_UNKNOWN = 11
/** Then hourly, for a message that is still under way: longer than one is tried to be sent. */
const TRIES_UNDER_WAY = 90

export type UnmatchedDeps = { readonly db: Database; readonly log: Log }

export function createUnmatchedLoop(deps: UnmatchedDeps): Loop {
  let batch = BATCH
  return new Loop({
    name: 'unmatched feedback',
    log: deps.log,
    idleMs: IDLE_MS,
    round: async () => {
      try {
        const tried = await retryUnmatched(deps, batch)
        const isFull = tried === batch
        batch = BATCH
        return isFull
      } catch (error) {
        if (!isLastingFault(error)) throw error
        // One of them is what the database refuses: one by one they find out.
        if (batch === 1) await giveUpFirst(deps, error)
        batch = 1
        return true
      }
    },
  })
}

/** One round; returns how many were tried. */
export async function retryUnmatched({ db }: UnmatchedDeps, limit: number): Promise<number> {
  return inTransaction(db, async (trx) => {
    const rows = await queries.takeWaiting(trx, limit)
    if (rows.length === 0) return 0
    const waiting = rows.map((row) => ({ row, event: { ...row.event, at: new Date(row.event.at) } }))
    const { unmatched } = await applyMatched(
      trx,
      waiting.map(({ event }) => event),
    )
    const left = new Map(unmatched.map(({ event, messageId }) => [event, messageId]))
    const applied = waiting.filter(({ event }) => !left.has(event)).map(({ row }) => row.id)
    const postponed = waiting
      .filter(({ event }) => left.has(event))
      .map(({ row, event }) => postpone(row, left.get(event) ?? null))
    await queries.finishWaiting(trx, applied, postponed)
    return rows.length
  })
}

function postpone({ id, tries }: queries.WaitingRow, messageId: string | null): queries.Postponed {
  const isOver = tries + 1 >= (messageId === null ? TRIES_UNKNOWN : TRIES_UNDER_WAY)
  const delayMs = Math.min(2 ** (tries + 1) * 1_000, LONGEST_DELAY_MS)
  return { id, message_id: messageId, delay_ms: isOver ? null : delayMs }
}

async function giveUpFirst({ db, log }: UnmatchedDeps, error: unknown): Promise<void> {
  await inTransaction(db, async (trx) => {
    const [row] = await queries.takeWaiting(trx, 1)
    if (row === undefined) return
    log.error(
      { feedback: row.id, error },
      'a provider event cannot be applied; it is kept in mail.feedback_unmatched',
    )
    await queries.finishWaiting(trx, [], [{ id: row.id, message_id: null, delay_ms: null }])
  })
}
