import { sql } from 'kysely'
import type { Database } from '../db/pool.ts'
import type { Transaction } from '../db/transaction.ts'

export const SUPPRESSION_ORIGINS = ['bounce', 'complaint', 'unsubscribe', 'manual', 'import'] as const
export type SuppressionOrigin = (typeof SUPPRESSION_ORIGINS)[number]

export type Suppression = {
  readonly id: string
  /** Lower case. */
  readonly address: string
  /** A stream, or `*` for all. */
  readonly scope: string
  readonly origin: SuppressionOrigin
  readonly reason: string
  readonly source: string
  readonly evidence: Readonly<Record<string, unknown>> | null
  readonly created_at: Date
  readonly expires_at: Date | null
}

export type SuppressionEntry = {
  readonly address: string
  readonly scope: string
  readonly origin: SuppressionOrigin
  readonly reason: string
  readonly source: string
  readonly expires_at: string | null
}

const IN_FORCE = sql`(s.expires_at is null or s.expires_at > now())`
const COLUMNS = sql`s.id, s.address, s.scope, s.origin, s.reason, s.source, s.evidence, s.created_at, s.expires_at`

/** Adds what is not on the list with as much reason already; returns the rows of all, in no particular order. */
export async function storeSuppressions(
  db: Database,
  entries: readonly SuppressionEntry[],
): Promise<Suppression[]> {
  if (entries.length === 0) return []
  const { rows } = await sql<Suppression>`/* suppressions.store */
    select ${COLUMNS} from mail.store_suppressions(${JSON.stringify(entries)}::json) s
  `.execute(db)
  return rows
}

export type SuppressionFilter = {
  readonly limit: number
  readonly after?: string | undefined
  readonly before?: string | undefined
  readonly origin?: string | undefined
  readonly scope?: string | undefined
  /** A part of the address, in lower case. */
  readonly containing?: string | undefined
}

/**
 * What is in force, newest first, one row more than `limit` if there are more. `after` goes on with older ones,
 * `before` with newer ones, nearest to the cursor.
 */
export async function listSuppressions(
  db: Database | Transaction,
  filter: SuppressionFilter,
): Promise<Suppression[]> {
  const { limit, after = null, before = null, origin = null, scope = null, containing = null } = filter
  const { rows } = await sql<Suppression>`/* suppressions.list */
    select ${COLUMNS}
    from mail.suppression s
    where ${IN_FORCE}
      and (${after}::uuid is null or s.id < ${after}::uuid)
      and (${before}::uuid is null or s.id > ${before}::uuid)
      and (${origin}::text is null or s.origin = ${origin}::text)
      and (${scope}::text is null or s.scope = ${scope}::text)
      and (${containing}::text is null or strpos(s.address, ${containing}::text) > 0)
    order by s.id ${before === null ? sql`desc` : sql`asc`}
    limit ${limit + 1}
  `.execute(db)
  return rows
}

/** Suppressions of addresses that were erased: found by who knows the address, and in no list. */
const erased = (addresses: readonly string[]) => sql`
  select
    e.id, e.address, e.scope, e.origin, 'the address was erased' as reason, 'erasure' as source, null::jsonb as evidence,
    e.created_at, e.expires_at
  from mail.erased_suppressions(${addresses}::text[]) e`

/** Those of the ids, and of the addresses in this scope, that are in force. */
export async function findSuppressions(
  db: Database,
  wanted: {
    readonly ids?: readonly string[]
    readonly addresses?: readonly string[]
    readonly scope: string
  },
): Promise<Suppression[]> {
  const { rows } = await sql<Suppression>`/* suppressions.find */
    select ${COLUMNS}
    from mail.suppression s
    where ${IN_FORCE} and (
      s.id = any (${wanted.ids ?? []}::uuid[])
      or (s.address = any (${wanted.addresses ?? []}::text[]) and s.scope = ${wanted.scope})
    )
    union all
    select ${COLUMNS} from (${erased(wanted.addresses ?? [])}) s where ${IN_FORCE} and s.scope = ${wanted.scope}
  `.execute(db)
  return rows
}

export async function removeSuppressions(
  db: Database,
  wanted: Parameters<typeof findSuppressions>[1],
): Promise<{ id: string; address: string }[]> {
  const { rows } = await sql<{ id: string; address: string }>`/* suppressions.remove */
    with listed as (
      delete from mail.suppression s
      where s.id = any (${wanted.ids ?? []}::uuid[])
        or (s.address = any (${wanted.addresses ?? []}::text[]) and s.scope = ${wanted.scope})
      returning s.id, s.address
    ), hashed as (
      delete from mail.suppression_hash h
      using mail.erased_suppressions(${wanted.addresses ?? []}::text[]) e
      where h.id = e.id and e.scope = ${wanted.scope}
      returning h.id, e.address
    )
    select id, address from listed
    union all
    select id, address from hashed
  `.execute(db)
  return rows
}

/** In which scopes an address is suppressed. */
export async function scopesOf(db: Database, address: string): Promise<string[]> {
  const { rows } = await sql<{ scope: string }>`/* suppressions.scopes */
    select s.scope from mail.suppression s where s.address = ${address} and ${IN_FORCE}
    union
    select s.scope from mail.erased_suppressions(array[${address}::text]) s where ${IN_FORCE}
    order by scope
  `.execute(db)
  return rows.map(({ scope }) => scope)
}

/** The next rows for an export, by id. */
export async function pageOfSuppressions(
  db: Database,
  after: string | null,
  limit: number,
): Promise<Suppression[]> {
  const { rows } = await sql<Suppression>`/* suppressions.export */
    select ${COLUMNS}
    from mail.suppression s
    where ${IN_FORCE} and (${after}::uuid is null or s.id > ${after}::uuid)
    order by s.id
    limit ${limit}
  `.execute(db)
  return rows
}
