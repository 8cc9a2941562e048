import { setTimeout as delay } from 'node:timers/promises'
import type { Ledger } from './ledger.ts'

type Queryable = {
  query<Row extends object>(text: string, values?: unknown[]): Promise<Row[]>
}

const LOOK_MS = 250
/** Longer than every wait that the streams of a run know by default: a retry, a rescue, a breaker's cooldown. */
const STALL_MS = 90_000
/** States in which a message stays until a person, or a provider, says otherwise. */
const VISIBLE = ['dead', 'unknown', 'suppressed', 'canceled']

/**
 * Waits until nothing moves any more: both doors empty, every message at an end; or until nothing has changed for so long
 * that nothing will. Then the ledger knows which of the messages that did not come out can be seen by a person.
 */
export async function untilDrained({ query }: Queryable, ledger: Ledger, stallMs = STALL_MS): Promise<void> {
  let seen = ''
  let changedAt = performance.now()
  while (performance.now() - changedAt < stallMs) {
    // Postgres may be away for a moment; that too is a state that passes.
    const [row] = await query<{ moving: number; inside: boolean }>(
      `select count(*) filter (where status in ('accepted', 'queued', 'sending', 'deferred'))::integer as moving,
         exists (select from mail.intake) or exists (select from mail.outbox) as inside
       from mail.message`,
    ).catch(() => [])
    if (row?.moving === 0 && !row.inside) break
    const now = JSON.stringify([row, ledger.delivered])
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
