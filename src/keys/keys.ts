import { type SelectQueryBuilder, sql } from 'kysely'
import type { Database } from '../db/pool.ts'
import { inTransaction, type Transaction } from '../db/transaction.ts'
import type { DB } from '../db/types.ts'
import { newKeyId, newSecret } from './key-format.ts'

/** The rows of `mail.api_key`: made, listed, changed, rotated, revoked. Who holds one is told by keyring.ts. */

export const KEY_SCOPES = ['full', 'send', 'read', 'operate'] as const
export type KeyScope = (typeof KEY_SCOPES)[number]

/** What a key may do beyond its scope; null: no such limit. */
export type KeyLimits = {
  /** Of a `send` key only: the streams it may send in. */
  readonly streams: readonly string[] | null
  /** Of a `send` key only: the domains it may send from. */
  readonly sender_domains: readonly string[] | null
  readonly expires_at: Date | null
  readonly rate_limit_per_s: number | null
  /** Null: as many as in a second. */
  readonly rate_burst: number | null
}

/** Who a request comes from. */
export type Caller = {
  readonly keyId: string
  readonly name: string
  readonly scope: KeyScope
} & KeyLimits

export type StoredKey = KeyLimits & {
  readonly id: string
  readonly name: string
  readonly scope: KeyScope
  readonly created_at: Date
  readonly created_by: string
  readonly revoked_at: Date | null
  /** To the minute. */
  readonly last_used_at: Date | null
  /** Until then the secret before the last rotation works as well. */
  readonly previous_expires_at: Date | null
}

export type NewKey = Pick<StoredKey, 'name' | 'scope'> &
  Partial<KeyLimits> & {
    /** Unset: the user of the database connection. */
    readonly created_by?: string
  }

const COLUMNS = [
  'id',
  'name',
  'scope',
  'streams',
  'sender_domains',
  'rate_limit_per_s',
  'rate_burst',
  'created_at',
  'created_by',
  'expires_at',
  'revoked_at',
  'last_used_at',
  'previous_expires_at',
] as const

/** Makes and stores a key; the text is shown this once and cannot be read again. */
export async function createKey(db: Database, settings: NewKey): Promise<{ id: string; key: string }> {
  const id = newKeyId()
  const { key, hash } = newSecret(id)
  await db
    .insertInto('mail.api_key')
    .values({ id, hash, ...columnsOf(settings) })
    .execute()
  return { id, key }
}

export async function hasKeys(db: Database): Promise<boolean> {
  const row = await db
    .selectFrom('mail.api_key')
    .select('id')
    .where('revoked_at', 'is', null)
    .limit(1)
    .executeTakeFirst()
  return row !== undefined
}

/** Every key there ever was, the oldest first. */
export async function listEveryKey(db: Database): Promise<StoredKey[]> {
  return stored(db.selectFrom('mail.api_key')).orderBy('created_at').orderBy('id').execute()
}

export type KeyPage = { readonly limit: number; readonly after?: string; readonly before?: string }

/** Keys that are not revoked, the newest first. A cursor is the id of a key, also of one revoked meanwhile. */
export async function listKeys(
  db: Database,
  { limit, after, before }: KeyPage,
): Promise<{ keys: StoredKey[]; hasMore: boolean }> {
  const cursor = after ?? before
  const direction = before === undefined ? 'desc' : 'asc'
  const place = sql`(select c.created_at, c.id from mail.api_key c where c.id = ${cursor})`
  const rows = await stored(db.selectFrom('mail.api_key'))
    .where('revoked_at', 'is', null)
    .$if(cursor !== undefined, (query) =>
      query.where(sql<boolean>`(created_at, id) ${before === undefined ? sql`<` : sql`>`} ${place}`),
    )
    .orderBy('created_at', direction)
    .orderBy('id', direction)
    .limit(limit + 1)
    .execute()
  const keys = rows.slice(0, limit)
  return { keys: before === undefined ? keys : keys.reverse(), hasMore: rows.length > limit }
}

/** A key that is not revoked. */
export async function findKey(db: Database | Transaction, id: string): Promise<StoredKey | undefined> {
  return stored(db.selectFrom('mail.api_key'))
    .where('id', '=', id)
    .where('revoked_at', 'is', null)
    .executeTakeFirst()
}

export async function isKey(db: Database, id: string): Promise<boolean> {
  const row = await db.selectFrom('mail.api_key').select('id').where('id', '=', id).executeTakeFirst()
  return row !== undefined
}

export type KeyChanges = Partial<Pick<StoredKey, 'name'> & KeyLimits>

/**
 * Changes a key that is not revoked; `check` sees it as it is under the lock, and stops the change by throwing.
 * Undefined: there is no such key.
 */
export async function changeKey(
  db: Database,
  id: string,
  changes: KeyChanges,
  check: (key: StoredKey) => void,
): Promise<StoredKey | undefined> {
  return inTransaction(db, async (trx) => {
    const key = await lockKey(trx, id)
    if (key === undefined) return undefined
    check(key)
    await trx
      .updateTable('mail.api_key')
      .set({ id, ...columnsOf(changes) })
      .where('id', '=', id)
      .execute()
    return findKey(trx, id)
  })
}

/** False when there is no such key, or it is revoked already. */
export async function revokeKey(db: Database, id: string): Promise<boolean> {
  const revoked = await db
    .updateTable('mail.api_key')
    .set({ revoked_at: sql`clock_timestamp()` })
    .where('id', '=', id)
    .where('revoked_at', 'is', null)
    .executeTakeFirst()
  return revoked.numUpdatedRows === 1n
}

/**
 * Gives a key a new secret; the one it had works for `overlapS` seconds more, and one from an earlier rotation
 * ends now. Undefined: there is no such key.
 */
export async function rotateKey(
  db: Database,
  { id, overlapS }: { readonly id: string; readonly overlapS: number },
  check: (key: StoredKey) => void = () => undefined,
): Promise<{ key: string; stored: StoredKey } | undefined> {
  return inTransaction(db, async (trx) => {
    const old = await lockKey(trx, id)
    if (old === undefined) return undefined
    check(old)
    const { key, hash } = newSecret(id)
    const overlap =
      overlapS > 0
        ? {
            previous_hash: sql<Buffer>`hash`,
            previous_expires_at: sql<Date>`clock_timestamp() + make_interval(secs => ${overlapS})`,
          }
        : { previous_hash: null, previous_expires_at: null }
    await trx
      .updateTable('mail.api_key')
      .set({ hash, ...overlap })
      .where('id', '=', id)
      .execute()
    const now = await findKey(trx, id)
    return now && { key, stored: now }
  })
}

/** Those of the named streams that do not exist: a key bound to one would be of no use, and is mostly misspelt. */
export async function unknownStreams(db: Database, names: readonly string[]): Promise<string[]> {
  const known = await db
    .selectFrom('mail.stream')
    .select('name')
    .where('name', '=', sql<string>`any(${[...names]})`)
    .execute()
  return names.filter((name) => !known.some((row) => row.name === name))
}

async function lockKey(trx: Transaction, id: string): Promise<StoredKey | undefined> {
  await trx.selectFrom('mail.api_key').select('id').where('id', '=', id).forUpdate().execute()
  return findKey(trx, id)
}

function stored(query: SelectQueryBuilder<DB, 'mail.api_key', object>) {
  return query.select(COLUMNS).$narrowType<{ scope: KeyScope }>()
}

/** Columns that were given; the driver takes no readonly lists. */
function columnsOf<
  T extends { streams?: readonly string[] | null; sender_domains?: readonly string[] | null },
>(given: T) {
  const { streams, sender_domains, ...rest } = given
  return {
    ...rest,
    ...(streams !== undefined && { streams: streams && [...streams] }),
    ...(sender_domains !== undefined && { sender_domains: sender_domains && [...sender_domains] }),
  }
}
