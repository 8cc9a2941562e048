import { sql } from 'kysely'
import type { Database } from '../../db/pool.ts'
import type { DeadLetterFilter } from './dead-letter-filter.ts'
import { inTime } from './in-time.ts'

export type DeadLetter = {
  readonly message_id: string
  readonly died_at: Date
  /** Where the letter stands in the list: microseconds since the epoch. */
  readonly position: string
  readonly stage: string
  readonly code: string
  readonly reason: string
  readonly stream: string
  readonly provider: string | null
  readonly template: string | null
  readonly template_version: number | null
  readonly source: string
  readonly recipient_domain: string | null
}

export type LetterCursor = { readonly position: string; readonly id: string }

const micros = sql<string>`(extract(epoch from d.died_at) * 1000000)::bigint::text`

/** The latest first, after the cursor: also when the letter there has been retried meanwhile. */
export async function listLetters(
  db: Database,
  filter: DeadLetterFilter,
  cursor: LetterCursor | undefined,
  limit: number,
): Promise<DeadLetter[]> {
  const { position = null, id = null } = cursor ?? {}
  return inTime(db, async (trx) => {
    const { rows } = await sql<DeadLetter>`/* dashboard.letters */
      select d.message_id, d.died_at, ${micros} as position, d.stage, d.code, d.reason, d.stream, d.provider,
        d.template, d.template_version, d.source, d.recipient_domain
      from mail.dlq d
      join mail.dead_letter l on l.message_id = d.message_id
      where mail.dlq_match(l, ${JSON.stringify(filter)}::jsonb)
        and (${position}::bigint is null
          or (d.died_at, d.message_id)
            < (timestamptz 'epoch' + ${position}::bigint * interval '1 microsecond', ${id}::uuid))
      order by d.died_at desc, d.message_id desc
      limit ${limit}
    `.execute(trx)
    return rows
  })
}

/** The database's clock, after all that was seen until now. */
export async function now(db: Database): Promise<Date> {
  const { rows } = await sql<{ at: Date }>`/* dashboard.now */
    select date_trunc('milliseconds', clock_timestamp() + interval '1 millisecond') as at
  `.execute(db)
  return rows[0]?.at ?? new Date()
}

/** How many match; `most` stands for that many or more. */
export async function countLetters(db: Database, filter: DeadLetterFilter, most: number): Promise<number> {
  return inTime(db, async (trx) => {
    const { rows } = await sql<{ count: number }>`/* dashboard.count_letters */
      select count(*)::integer as count
      from (
        select from mail.dlq d
        join mail.dead_letter l on l.message_id = d.message_id
        where mail.dlq_match(l, ${JSON.stringify(filter)}::jsonb)
        limit ${most}
      ) counted
    `.execute(trx)
    return rows[0]?.count ?? 0
  })
}
