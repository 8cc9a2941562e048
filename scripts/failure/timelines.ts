import type { Queryable } from './queryable.ts'

export type Timeline = {
  readonly status: string
  readonly attempts: number
  /** What became of each attempt, with its code, in their order: `deferred smtp_deferred`, `sent`. */
  readonly words: readonly string[]
}

const WORDS = [
  'deferred',
  'unreachable',
  'unknown',
  'recipient_sent',
  'recipient_refused',
  'sent',
  'dead',
  'suppressed',
]

/** What happened to these messages from their first claim on, by id. */
export async function readTimelines(
  { query }: Queryable,
  ids: readonly string[],
): Promise<ReadonlyMap<string, Timeline>> {
  const rows = await query<Timeline & { id: string }>(
    `select m.id, m.status, m.attempts, coalesce(e.words, '{}') as words
     from mail.message m
     left join lateral (
       select array_agg(
         concat_ws(' ', type, case when type not in ('sent', 'recipient_sent') then detail ->> 'code' end) order by at, id
       ) as words
       from mail.event where message_id = m.id and type = any ($2::text[])
     ) e on true
     where m.id = any ($1::uuid[])`,
    [ids, WORDS],
  )
  return new Map(rows.map(({ id, ...timeline }) => [id, timeline]))
}

/** Attempts that count: those in which a relay looked at the message. */
export function attemptsIn(words: readonly string[]): number {
  return words.filter((word) => !/^(?:unreachable|recipient)/.test(word)).length
}
