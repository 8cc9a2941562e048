import { sql } from 'kysely'
import type { Database } from '../db/pool.ts'

export type RequestTokens = {
  readonly key_id: string
  readonly granted: number
  /** Null, as what follows: the key has no limit any more. */
  readonly quota: number | null
  readonly remaining: number | null
  readonly reset_s: number | null
  readonly retry_after_s: number | null
}

/** One answer for each key. In the order of the keys, in which every process locks their buckets. */
export async function takeRequestTokens(
  db: Database,
  wants: readonly { readonly keyId: string; readonly want: number }[],
): Promise<RequestTokens[]> {
  const ordered = wants.toSorted((one, other) => (one.keyId < other.keyId ? -1 : 1))
  const { rows } = await sql<RequestTokens>`/* key.take_request_tokens */
    select w.key_id, t.granted, t.quota, t.remaining, t.reset_s, t.retry_after_s
    from unnest(${ordered.map(({ keyId }) => keyId)}::text[], ${ordered.map(({ want }) => want)}::integer[])
      as w (key_id, want)
    cross join lateral mail.take_request_tokens(w.key_id, w.want) t
  `.execute(db)
  return rows
}
