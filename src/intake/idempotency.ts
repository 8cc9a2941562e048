import type { Transaction } from '../db/transaction.ts'
import { type ExaminedRow, refuse } from './examine.ts'
import type { FoundRow } from './moved-queries.ts'
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

type Settled = {
  readonly rows: ExaminedRow[]
  readonly outcomes: Map<string, MoveOutcome>
  readonly replayed: readonly string[]
  readonly queued: readonly string[]
}

/**
 * The first use of a key passes; a repeat of the same message is dropped, since the first one stands for
 * it; a key that returns with another message is refused, and kept as a dead letter unless a caller
 * waits for the answer, here or in another process (an SQL writer reads none). Rows already refused do not use up their key: the
 * caller may repair and repeat. `replayed` names the first message of each repeat, and `queued` the rows that were handed over
 * while an SQL writer's row with the same key waits at the outbox: nothing becomes of those here.
 */
export async function settleIdempotency(
  trx: Transaction,
  examined: readonly ExaminedRow[],
  { isAwaited, isHanded }: { readonly isAwaited: (id: string) => boolean; readonly isHanded: boolean },
): Promise<Settled> {
  const { settled, queued } = await settleKeysOf(trx, examined, isHanded)
  const rows: ExaminedRow[] = []
  const outcomes = new Map<string, MoveOutcome>()
  const replayed: string[] = []
  for (const row of examined) {
    const key = settled.get(row.id)
    if (queued.has(row.id)) continue
    if (row.status === 'dead' || key === undefined || key.first_id === row.id) {
      rows.push(row)
      outcomes.set(row.id, storedAs(row))
    } else if (key.is_same) {
      replayed.push(key.first_id)
      outcomes.set(row.id, { kind: 'replayed', firstId: key.first_id })
    } else {
      const reason = `The idempotency key was used before with another message (${key.first_id}).`
      if (!row.isAwaited && !isAwaited(row.id)) rows.push(refuse(row, CONFLICT_CODE, reason))
      outcomes.set(row.id, { kind: 'conflict' })
    }
  }
  return { rows, outcomes, replayed, queued: [...queued] }
}

/** Those with a key to be claimed. */
export function keyedRows(examined: readonly ExaminedRow[]): queries.KeyedRow[] {
  return examined.flatMap(({ id, seq, idempotencyKey, given, status }, place) =>
    idempotencyKey === null || status === 'dead'
      ? []
      : [{ id, seq, place, key: idempotencyKey, message: given }],
  )
}

/** What is told of a row that is stored as it is. */
export function storedAs({ status, reason }: ExaminedRow): MoveOutcome {
  return status === 'dead' ? { kind: 'dead', reason: reason ?? '' } : { kind: 'stored' }
}

/** Nearly always every key is new, and nothing more has to be asked. */
async function settleKeysOf(
  trx: Transaction,
  examined: readonly ExaminedRow[],
  isHanded: boolean,
): Promise<{ settled: ReadonlyMap<string, queries.SettledKey>; queued: ReadonlySet<string> }> {
  const keyed = keyedRows(examined)
  if (keyed.length === 0) return { settled: new Map(), queued: new Set() }
  const claimed = await queries.claimKeys(trx, keyed, { hoursKept: KEY_HOURS, yields: isHanded })
  const others = keyed.filter(({ id }) => !claimed.has(id))
  if (others.length === 0) return { settled: new Map(), queued: new Set() }
  const queued = isHanded ? await findQueued(trx, others) : new Set<string>()
  const settled = await queries.readKeys(
    trx,
    others.filter(({ id }) => !queued.has(id)),
  )
  const found = new Map(settled.map((row) => [row.id, row]))
  // A key that left the outbox at this very moment, with a row that was refused, is nobody's: the door finds that out.
  if (isHanded) for (const { id } of others) if (!found.has(id)) queued.add(id)
  return { settled: found, queued }
}

async function findQueued(trx: Transaction, rows: readonly queries.KeyedRow[]): Promise<Set<string>> {
  const keys = await queries.findAtOutbox(
    trx,
    rows.map(({ key }) => key),
  )
  return new Set(rows.filter(({ key }) => keys.has(key)).map(({ id }) => id))
}

/** What was made of a row that was found in the tables, as a mover tells it. */
export function outcomeOf(row: FoundRow): MoveOutcome {
  // The other mover took it for a row that nobody waits for any more, and kept the conflict as a dead letter.
  if (row.refused_code === CONFLICT_CODE) return { kind: 'conflict' }
  if (row.refused_code !== null) return { kind: 'dead', reason: row.refused_reason ?? '' }
  if (row.is_stored || row.first_id === null || row.first_id === row.id) return { kind: 'stored' }
  return row.is_same === true ? { kind: 'replayed', firstId: row.first_id } : { kind: 'conflict' }
}
