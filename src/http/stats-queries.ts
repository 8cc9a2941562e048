import { type RawBuilder, sql } from 'kysely'
import type { Database } from '../db/pool.ts'

/** What the counts can be divided by; the names of the columns of `mail.stat`. */
export const STAT_KEYS = [
  'day',
  'stream',
  'provider',
  'template',
  'template_version',
  'domain',
  'tag',
] as const
export type StatKey = (typeof STAT_KEYS)[number]

export type StatQuestion = {
  /** First and last UTC day, both included. */
  readonly from: string
  readonly to: string
  readonly groupBy: readonly StatKey[]
  readonly only: Readonly<Partial<Record<Exclude<StatKey, 'day'>, string>>>
  readonly limit: number
}

export type StatRow = Readonly<Record<string, string | number | null>>

/** Sums per group, with the time to send estimated from the summed buckets. Identifiers come from `STAT_KEYS` only. */
export async function readStats(db: Database, question: StatQuestion): Promise<StatRow[]> {
  const keys = question.groupBy.map((key) => sql.ref(key))
  const list = keys.length === 0 ? sql`true` : sql.join(keys)
  const shown = keys.length === 0 ? sql`` : sql`${sql.join(question.groupBy.map(shownKey))}, `
  const { rows } = await sql<StatRow>`/* stats.read */
    with counted as (
      select ${list}, row(${sql.join([sql`0`, ...keys])}) as "group",
        sum(sent)::bigint as sent, sum(delivered)::bigint as delivered, sum(deferred)::bigint as deferred,
        sum(bounced)::bigint as bounced, sum(complained)::bigint as complained, sum(opened)::bigint as opened,
        sum(clicked)::bigint as clicked, sum(unsubscribed)::bigint as unsubscribed,
        sum(suppressed)::bigint as suppressed, sum(dead)::bigint as dead
      from mail.stat
      where ${conditions(question)}
      group by ${list}
    ), timed as (
      select "group", array_agg(bucket) as buckets, array_agg(messages) as messages
      from (
        select row(${sql.join([sql`0`, ...keys])}) as "group", bucket, sum(messages) as messages
        from mail.stat_time
        where ${conditions(question)}
        group by ${list}, bucket
      ) bucket
      group by "group"
    )
    select ${shown}
      sent, delivered, deferred, bounced, complained, opened, clicked, unsubscribed, suppressed, dead,
      mail.time_at(0.5, buckets, messages) as p50_s,
      mail.time_at(0.95, buckets, messages) as p95_s,
      mail.time_at(0.99, buckets, messages) as p99_s
    from counted
    left join timed using ("group")
    order by ${list}
    limit ${question.limit}
  `.execute(db)
  return rows.map(withNumbers)
}

function shownKey(key: StatKey): RawBuilder<unknown> {
  // As text: a day is the same in every time zone.
  return key === 'day' ? sql`day::text as day` : sql`${sql.ref(key)}`
}

/** Rows with a tag hold what the others hold: a question is about the one kind or the other. */
function conditions({ from, to, groupBy, only }: StatQuestion): RawBuilder<unknown> {
  const isByTag = groupBy.includes('tag') || only.tag !== undefined
  const terms = [
    sql`day between ${from}::date and ${to}::date`,
    isByTag ? sql`tag <> ''` : sql`tag = ''`,
    ...Object.entries(only).map(([key, value]) =>
      key === 'template_version'
        ? sql`template_version = ${value}::integer`
        : sql`${sql.ref(key)} = ${value}`,
    ),
  ]
  return sql.join(terms, sql` and `)
}

const TEXT_KEYS: ReadonlySet<string> = new Set(STAT_KEYS.filter((key) => key !== 'template_version'))

/** Counts come as text, being 64 bits wide. */
function withNumbers(row: StatRow): StatRow {
  return Object.fromEntries(
    Object.entries(row).map(([key, value]) => [
      key,
      value === null || TEXT_KEYS.has(key) ? value : Number(value),
    ]),
  )
}
