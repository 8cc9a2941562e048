import { sql } from 'kysely'
import type { Database } from '../db/pool.ts'
import type { Transaction } from '../db/transaction.ts'
import type { IntakeRow } from './queries.ts'

export type WaitLimits = {
  readonly lockMs: number
  readonly statementMs: number
  /** Between two statements, while more is coming in. */
  readonly idleMs: number
}

/** For this transaction. The pool's own limits are for work that does not wait for a caller. */
export async function limitWaits(trx: Transaction, limits: WaitLimits): Promise<void> {
  await sql`/* intake.limit_waits */
    select
      set_config('lock_timeout', ${String(limits.lockMs)}, true),
      set_config('statement_timeout', ${String(limits.statementMs)}, true),
      set_config('idle_in_transaction_session_timeout', ${String(limits.idleMs)}, true)
  `.execute(trx)
}

/** The durable door. Nobody in particular waits for these rows to be moved. */
export async function appendToOutbox(
  trx: Transaction,
  rows: readonly Omit<IntakeRow, 'idempotencyKey'>[],
): Promise<void> {
  const recordset = rows.map(
    ({ id, priority, stream, source, message }) =>
      `${JSON.stringify({ id, priority, stream, source }).slice(0, -1)},"message":${message}}`,
  )
  await sql`/* intake.append_durably */
    insert into mail.outbox (id, priority, stream, source, message)
    select id, priority, stream, source, message
    from json_to_recordset(${`[${recordset.join(',')}]`}::json)
      as row (id uuid, priority smallint, stream text, source text, message json)
  `.execute(trx)
}

export type KnownKey = {
  readonly fingerprint: Buffer
  readonly message_ids: readonly string[]
  readonly answer: object | null
}

export async function findKey(db: Database | Transaction, key: string): Promise<KnownKey | undefined> {
  const { rows } = await sql<KnownKey>`/* intake.find_key */
    select fingerprint, message_ids::text[] as message_ids, answer
    from mail.idempotency
    where scope = 'send' and key = ${key} and expires_at > clock_timestamp()
  `.execute(db)
  return rows[0]
}

/**
 * Waits until nobody else is at work with this key through a function of ours, and tells whether a message that
 * is still in the outbox has it: that one was there first.
 */
export async function lockKey(trx: Transaction, key: string): Promise<boolean> {
  // As mail.send does. Two statements: what it committed while we waited is invisible to the first one's snapshot.
  await sql`/* intake.lock_key */ select pg_advisory_xact_lock(hashtextextended(${key}, 7461))`.execute(trx)
  const { rows } = await sql<{ is_taken: boolean }>`/* intake.key_in_outbox */
    select exists (select from mail.outbox where idempotency_key = ${key}) as is_taken
  `.execute(trx)
  return rows[0]?.is_taken === true
}

export type ClaimedKey = {
  readonly key: string
  readonly fingerprint: Buffer
  readonly ids: readonly string[]
  readonly answer: object | null
  readonly hoursKept: number
}

/** True when the key is ours now. Waits for a transaction that is claiming it; an expired one is taken over. */
export async function claimKey(trx: Transaction, claimed: ClaimedKey): Promise<boolean> {
  const { rows } = await sql`/* intake.claim_key */
    insert into mail.idempotency as i (scope, key, fingerprint, message_ids, answer, expires_at)
    values (
      'send', ${claimed.key}, ${claimed.fingerprint}, ${claimed.ids}::uuid[],
      ${claimed.answer === null ? null : JSON.stringify(claimed.answer)}::json,
      now() + make_interval(hours => ${claimed.hoursKept}::integer)
    )
    on conflict (scope, key) do update
    set fingerprint = excluded.fingerprint, message_ids = excluded.message_ids, answer = excluded.answer,
      created_at = now(), expires_at = excluded.expires_at
    where i.expires_at <= clock_timestamp()
    returning 1
  `.execute(trx)
  return rows.length > 0
}
