import type { Transaction } from '../db/transaction.ts'
import { type ExaminedRow, refuse } from './examine.ts'
import * as queries from './queries.ts'

/** How long a key is remembered; Resend's 24 hours. */
export const KEY_HOURS = 24

/** Code of a dead letter whose key was used before with another message. */
export const CONFLICT_CODE = 'idempotency_conflict'

export type MoveOutcome =
  | { readonly kind: 'stored' }
  | { readonly kind: 'dead'; readonly reason: string }
  /** The key was used before with the same message: that one stands for this. */
  | { readonly kind: 'replayed'; readonly firstId: string }
  /** The key was used before with another message. */
  | { readonly kind: 'conflict' }

/**
 * The first use of a key passes; a repeat of the same message is dropped, since the first one stands for
 * it; a key that returns with another message is refused, and kept as a dead letter unless a caller
 * waits for the answer, here or in another process (an SQL writer reads none). Rows already refused do not use up their key: the
 * caller may repair and repeat. `replayed` names the first message of each repeat.
 */
export async function settleIdempotency(
  trx: Transaction,
  examined: readonly ExaminedRow[],
  isAwaited: (id: string) => boolean,
): Promise<{ rows: ExaminedRow[]; outcomes: Map<string, MoveOutcome>; replayed: string[] }> {
  const settled = await settleKeysOf(trx, examined)
  const rows: ExaminedRow[] = []
  const outcomes = new Map<string, MoveOutcome>()
  const replayed: string[] = []
  for (const row of examined) {
    const key = settled.get(row.id)
    if (row.status === 'dead') {
      rows.push(row)
      outcomes.set(row.id, { kind: 'dead', reason: row.reason ?? '' })
    } else if (key === undefined || key.first_id === row.id) {
      rows.push(row)
      outcomes.set(row.id, { kind: 'stored' })
    } else if (key.is_same) {
      replayed.push(key.first_id)
      outcomes.set(row.id, { kind: 'replayed', firstId: key.first_id })
    } else {
      const reason = `The idempotency key was used before with another message (${key.first_id}).`
      if (!row.isAwaited && !isAwaited(row.id)) rows.push(refuse(row, CONFLICT_CODE, reason))
      outcomes.set(row.id, { kind: 'conflict' })
    }
  }
  return { rows, outcomes, replayed }
}

async function settleKeysOf(
  trx: Transaction,
  examined: readonly ExaminedRow[],
): Promise<Map<string, queries.SettledKey>> {
  const keyed = examined.flatMap(({ id, seq, idempotencyKey, given, status }, place) =>
    idempotencyKey === null || status === 'dead'
      ? []
      : [{ id, seq, place, key: idempotencyKey, message: given }],
  )
  if (keyed.length === 0) return new Map()
  const settled = await queries.settleKeys(trx, keyed, KEY_HOURS)
  return new Map(settled.map((row) => [row.id, row]))
}

/** What was made of a row that was found in the tables, as a mover tells it. */
export function outcomeOf(row: queries.FoundRow): MoveOutcome {
  // The other mover took it for a row that nobody waits for any more, and kept the conflict as a dead letter.
  if (row.refused_code === CONFLICT_CODE) return { kind: 'conflict' }
  if (row.refused_code !== null) return { kind: 'dead', reason: row.refused_reason ?? '' }
  if (row.is_stored || row.first_id === null || row.first_id === row.id) return { kind: 'stored' }
  return row.is_same === true ? { kind: 'replayed', firstId: row.first_id } : { kind: 'conflict' }
}
