import { type SqlBool, sql } from 'kysely'
import type { Database } from '../db/pool.ts'
import { inTransaction, type Transaction } from '../db/transaction.ts'

/** Columns a caller may set; absent ones stay as they are, or take their default in a new row. */
export type Changes = Readonly<Record<string, unknown>>

export async function listStreams(db: Database): Promise<object[]> {
  return readStreams(db, null)
}

async function readStreams(db: Database | Transaction, name: string | null): Promise<object[]> {
  const { rows } = await sql<object>`/* control.streams */
    select s.*, w.windows, mail.window_opens(s.name, now()) as opens_at
    from mail.stream s
    cross join lateral (
      select coalesce(json_agg(json_build_object(
        'days', days, 'opens', to_char(opens, 'HH24:MI'), 'closes', to_char(closes, 'HH24:MI'), 'time_zone', time_zone
      ) order by id), '[]') as windows
      from mail.send_window
      where stream = s.name
    ) w
    where s.name = ${name} or ${name}::text is null
    order by s.name
  `.execute(db)
  return rows
}

export async function listProviders(db: Database): Promise<object[]> {
  const { rows } = await sql<object>`/* control.providers */
    select p.*, s.status, s.until, s.breaker, s.requests_60s::integer, s.faults_60s::integer, s.remaining,
      s.in_flight::integer,
      coalesce((select json_agg(b order by b.name) from mail.bucket_level b where b.provider = p.name), '[]') as buckets
    from mail.provider p
    join mail.provider_status s on s.provider = p.name
    order by p.name
  `.execute(db)
  return rows
}

/**
 * Changes one row by its name, or inserts it. The columns come from a schema's fixed set of keys, never
 * from the caller's own; what the row may hold is checked by the table. The windows, when given: both or neither.
 */
export async function saveStream(
  db: Database,
  name: string,
  changes: Changes,
  windows: readonly Changes[] | undefined,
): Promise<object> {
  return inTransaction(db, async (trx) => {
    const row = await saveRow(trx, 'mail.stream', name, changes)
    if (windows !== undefined) await saveWindows(trx, name, windows)
    const [saved] = await readStreams(trx, name)
    return saved ?? row
  })
}

/** Replaces all send windows of a stream. */
async function saveWindows(trx: Transaction, stream: string, windows: readonly Changes[]): Promise<void> {
  await sql`/* control.drop_windows */ delete from mail.send_window where stream = ${stream}`.execute(trx)
  await sql`/* control.save_windows */
    insert into mail.send_window (stream, days, opens, closes, time_zone)
    select ${stream}, array(select json_array_elements_text(w.days)), w.opens, w.closes, w.time_zone
    from json_to_recordset(${JSON.stringify(windows)}::json) as w (days json, opens time, closes time, time_zone text)
  `.execute(trx)
}

/** The row and, when given, all buckets of a provider: both or neither. */
export async function saveProvider(
  db: Database,
  name: string,
  changes: Changes,
  buckets: readonly Changes[] | undefined,
): Promise<object> {
  return inTransaction(db, async (trx) => {
    const row = await saveRow(trx, 'mail.provider', name, changes)
    if (buckets !== undefined) await saveBuckets(trx, name, buckets)
    return row
  })
}

/**
 * First as a change: an insert that finds its row there would be checked with the defaults of every column
 * that was not given.
 */
async function saveRow(
  trx: Transaction,
  table: 'mail.stream' | 'mail.provider',
  name: string,
  changes: Changes,
): Promise<object> {
  const given = Object.entries(changes).filter(([, value]) => value !== undefined)
  const columns = given.map(([column]) => sql.ref(column))
  const values = given.map(([, value]) => sql`${value}`)
  const assignments = columns.map((column, index) => sql`${column} = ${values[index]}`)
  const change = () =>
    sql<object>`/* control.change */
      update ${sql.table(table)} set ${sql.join([sql`name = name`, ...assignments])} where name = ${name} returning *
    `.execute(trx)
  const { rows: changed } = await change()
  if (changed[0] !== undefined) return changed[0]
  const { rows: inserted } = await sql<object>`/* control.insert */
    insert into ${sql.table(table)} (${sql.join([sql.ref('name'), ...columns])})
    values (${sql.join([sql`${name}`, ...values])})
    on conflict (name) do nothing
    returning *
  `.execute(trx)
  if (inserted[0] !== undefined) return inserted[0]
  // Somebody else made it in between.
  const { rows: found } = await change()
  return found[0] ?? {}
}

/** Replaces all buckets of a provider; tokens already gathered stay, up to what may gather now. */
async function saveBuckets(trx: Transaction, provider: string, buckets: readonly Changes[]): Promise<void> {
  await sql`/* control.drop_buckets */
    delete from mail.bucket where provider = ${provider} and name <> all (${buckets.map((b) => b.name)}::text[])
  `.execute(trx)
  await sql`/* control.save_buckets */
    insert into mail.bucket (provider, name, quota, window_s, utilization, burst, reserve, counts)
    select ${provider}, name, quota, coalesce(window_s, 1), coalesce(utilization, 0.85), burst, reserve, coalesce(counts, 'messages')
    from json_to_recordset(${JSON.stringify(buckets)}::json) as b (
      name text, quota double precision, window_s double precision, utilization double precision,
      burst double precision, reserve double precision, counts text
    )
    on conflict (provider, name) do update
    set quota = excluded.quota, window_s = excluded.window_s, utilization = excluded.utilization,
      burst = excluded.burst, reserve = excluded.reserve, counts = excluded.counts
  `.execute(trx)
}

export async function setPaused(
  db: Database,
  kind: 'provider' | 'stream',
  name: string,
  paused: boolean,
): Promise<string> {
  const verb = paused ? sql`mail.pause` : sql`mail.resume`
  const { rows } = await sql<{
    said: string
  }>`/* control.pause */ select ${verb}(${name}, ${kind}) as said`.execute(db)
  return rows[0]?.said ?? ''
}

/** A line of `mail.dlq_summary`; null where the letters of the group differ. */
export type DeadLetterGroup = {
  readonly stage: string
  readonly code: string
  readonly template: string | null
  readonly template_version: number | null
  readonly source: string | null
  readonly recipient_domain: string | null
  readonly messages: number
  readonly first_seen: Date
  readonly last_seen: Date
  readonly sample_id: string
  readonly sample_reason: string
  readonly recipient_domains: string | null
}

export async function summariseDeadLetters(db: Database, limit: number): Promise<DeadLetterGroup[]> {
  const { rows } = await sql<DeadLetterGroup>`/* control.dlq_summary */
    select s.*, s.messages::integer as messages from mail.dlq_summary s limit ${limit}
  `.execute(db)
  return rows
}

export async function listDeadLetters(db: Database, filter: object, limit: number): Promise<object[]> {
  const wanted = JSON.stringify(filter)
  await sql`/* control.check_filter */ select mail.check_dlq_filter(${wanted}::jsonb)`.execute(db)
  const { rows } = await sql<object>`/* control.dlq_list */
    select d.* from mail.dlq d
    join mail.dead_letter l on l.message_id = d.message_id
    where mail.dlq_match(l, ${wanted}::jsonb)
    order by d.died_at desc, d.message_id
    limit ${limit}
  `.execute(db)
  return rows
}

export async function retryOne(db: Database, id: string): Promise<boolean> {
  const { rows } = await sql<{
    done: SqlBool
  }>`/* control.retry */ select mail.dlq_retry(${id}::uuid) as done`.execute(db)
  return rows[0]?.done === true
}

export async function retryMany(
  db: Database,
  filter: object,
  max: number | null,
  perSecond: number,
): Promise<number> {
  const { rows } = await sql<{ count: number }>`/* control.retry_many */
    select mail.dlq_retry(${JSON.stringify(filter)}::jsonb, ${max}::integer, ${perSecond}::double precision) as count
  `.execute(db)
  return rows[0]?.count ?? 0
}

export async function discardOne(db: Database, id: string): Promise<boolean> {
  const { rows } = await sql<{
    done: SqlBool
  }>`/* control.discard */ select mail.dlq_discard(${id}::uuid) as done`.execute(db)
  return rows[0]?.done === true
}

export async function discardMany(db: Database, filter: object, max: number | null): Promise<number> {
  const { rows } = await sql<{ count: number }>`/* control.discard_many */
    select mail.dlq_discard(${JSON.stringify(filter)}::jsonb, ${max}::integer) as count
  `.execute(db)
  return rows[0]?.count ?? 0
}
