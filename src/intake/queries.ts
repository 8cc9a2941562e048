import { type RawBuilder, sql } from 'kysely'
import type { Database } from '../db/pool.ts'
import { lastly, type Transaction } from '../db/transaction.ts'
import type { Message } from '../message/message.ts'
import { processingOf } from '../queue/processing-jobs.ts'
import type { Look } from '../queue/queue-front.ts'

/** A row as the API appends it to the intake. */
export type IntakeRow = {
  readonly id: string
  readonly priority: number
  readonly stream: string
  readonly idempotencyKey: string | null
  readonly source: string
  /** The request body as JSON text. */
  readonly message: string
  /** The same, as it was read and found good. Absent: the mover reads it. */
  readonly parsed?: Message
}

/** A row as the mover takes it, from either door or from a caller in its process. */
export type TakenRow = {
  readonly id: string
  /** Given at the door; null: when it is stored. */
  readonly seq: string | null
  readonly received_at: Date
  readonly priority: number | null
  readonly stream: string | null
  readonly idempotency_key: string | null
  readonly source: string
  readonly message: string
  /** A caller in some process still waits for what becomes of it. */
  readonly is_awaited: boolean
  /** Its priority at the door, where the stream's own is not known yet. */
  readonly rank: number
}

/**
 * One statement for all rows. The recordset is put together as text so that each body, JSON already,
 * is neither parsed nor escaped again. `mover` is the process that wants to move them itself.
 */
export async function appendToIntake(db: Database, rows: readonly IntakeRow[], mover: string): Promise<void> {
  const recordset = rows.map(({ message, parsed: _, ...columns }) => {
    return `${JSON.stringify({ ...columns, mover }).slice(0, -1)},"message":${message}}`
  })
  await sql`/* intake.append */
    insert into mail.intake (id, priority, stream, idempotency_key, mover, source, message)
    select id, priority, stream, "idempotencyKey", mover, source, message
    from json_to_recordset(${`[${recordset.join(',')}]`}::json)
      as row (
        id uuid, priority smallint, stream text, "idempotencyKey" text, mover uuid, source text, message json
      )
  `.execute(db)
}

/**
 * A row that a process put its name on has a caller who waits in it; after so long it may have got another answer
 * (503, or buffered), and is nobody's any more. Half of the default SLUICE_ACCEPT_TIMEOUT_MS.
 */
const AWAITED_S = 5

/** How much of a door is taken at once, by whom, and from where on, in sequence numbers (see queue-front.ts). */
export type Taking = {
  readonly rows: number
  /** About so many; always at least one row. */
  readonly bytes: number
  readonly mover: string
  readonly look: Look
}

type Door = 'intake' | 'outbox'

/**
 * Takes the next rows of both doors, urgent first. Rows another mover holds are passed over, and so are rows that callers in
 * another process wait for, as long as they are fresh: that process answers them sooner when it moves them itself.
 */
export async function takeBatch(trx: Transaction, taking: Taking): Promise<TakenRow[]> {
  const { rows } = await sql<TakenRow>`/* intake.take */
    with from_intake as (${takenFrom('intake', taking)}), from_outbox as (${takenFrom('outbox', taking)})
    select * from from_intake
    union all
    select * from from_outbox
  `.execute(trx)
  return rows
}

/**
 * By ctid: the rows are locked, nothing updates them, and no join can be planned badly on a table that is empty one moment
 * and huge the next. Sizes are those of the text: the stored one may be compressed a hundredfold.
 */
function takenFrom(door: Door, taking: Taking): RawBuilder<TakenRow> {
  return sql`
    delete from ${sql.table(`mail.${door}`)}
    where ctid = any (array(
      select place
      from (
        select
          place,
          sum(bytes) over (order by rank, seq) as bytes_so_far,
          row_number() over (order by rank, seq) as nth
        from (${nextRows(door, taking)}) free
      ) sized
      where bytes_so_far <= ${sql.lit(taking.bytes)} or nth = 1
    ))
    -- The owner of the table may have written any time into it, 'infinity' too.
    returning id, seq, least(greatest(received_at, now() - interval '30 days'), now()) as received_at, priority, stream, idempotency_key, source, message::text as message,
      mover is not null and received_at > clock_timestamp() - make_interval(secs => ${sql.lit(AWAITED_S)}) as is_awaited,
      coalesce(priority, 5::smallint) as rank`
}

/** From the very start of the door; or from its front, a priority at a time, so that each part is one range of the index. */
function nextRows(door: Door, { rows, look, mover }: Taking): RawBuilder<unknown> {
  const row = sql`ctid as place, seq, coalesce(priority, 5::smallint) as rank, octet_length(message::text) as bytes`
  const isTaken = sql`(mover is null or mover = ${mover}::uuid or received_at < clock_timestamp() - interval '250 milliseconds')`
  if (look.isWhole) {
    return sql`
      select ${row}
      from ${sql.table(`mail.${door}`)}
      where ${isTaken}
      order by coalesce(priority, 5::smallint), seq
      limit ${sql.lit(rows)}
      for update skip locked`
  }
  return sql`
    select row.*
    from unnest(${look.from.map((seq) => seq ?? 0)}::bigint[]) with ordinality as front (seq, place)
    cross join lateral (
      select ${row}
      from ${sql.table(`mail.${door}`)}
      where coalesce(priority, 5::smallint) = front.place - 1 and seq >= front.seq and ${isTaken}
      order by seq
      limit ${sql.lit(rows)}
      for update skip locked
    ) row
    limit ${sql.lit(rows)}`
}

export type KeyedRow = {
  readonly id: string
  readonly seq: string | null
  /** Among those that have no number yet. */
  readonly place: number
  readonly key: string
  readonly message: string
}
export type SettledKey = {
  readonly id: string
  /** The message that stands for this key. */
  readonly first_id: string
  readonly is_same: boolean
}

/** How keys are claimed: for how long, and whether SQL writers whose rows wait at the outbox have them before. */
export type Claiming = { readonly hoursKept: number; readonly yields: boolean }

/**
 * Claims the keys of these rows, first come first served; returns the ids of the rows that have theirs now. Of rows that
 * `yield` to SQL writers none has it whose key waits at the outbox.
 */
export async function claimKeys(
  trx: Transaction,
  rows: readonly KeyedRow[],
  claiming: Claiming,
): Promise<Set<string>> {
  const { rows: claimed } = await sql<{
    id: string
  }>`/* intake.claim_keys */ ${claimedKeys(rows, claiming)}`.execute(trx)
  return new Set(claimed.map(({ id }) => id))
}

function claimedKeys(rows: readonly KeyedRow[], { hoursKept, yields }: Claiming): RawBuilder<unknown> {
  const keys = rows.map(({ key }) => key)
  return sql`
    insert into mail.idempotency as i (scope, key, fingerprint, message_ids, expires_at)
    select distinct on (key)
      'send', key, mail.fingerprint(message), array[id], now() + make_interval(hours => ${hoursKept}::integer)
    from json_to_recordset(${JSON.stringify(rows)}::json) as row (id uuid, seq bigint, place integer, key text, message text)
    where ${yields ? sql`key <> all (array(${atOutbox(keys)}))` : sql`true`}
    order by key, seq, place -- keys in one order everywhere, so that two movers cannot wait for each other
    on conflict (scope, key) do update
    set fingerprint = excluded.fingerprint, message_ids = excluded.message_ids,
      created_at = now(), expires_at = excluded.expires_at
    where i.expires_at <= clock_timestamp()
    returning i.message_ids[1] as id`
}

/**
 * Which message stands for the key of each of these rows. A statement of its own: a key that another mover commits while
 * we wait for it is invisible to the snapshot of the one that claims.
 */
export async function readKeys(trx: Transaction, rows: readonly KeyedRow[]): Promise<SettledKey[]> {
  const { rows: settled } = await sql<SettledKey>`/* intake.read_keys */
    select row.id, i.message_ids[1] as first_id, i.fingerprint = any (mail.fingerprints(row.message)) as is_same
    from json_to_recordset(${JSON.stringify(rows)}::json) as row (id uuid, key text, message text)
    join mail.idempotency i on i.scope = 'send' and i.key = row.key
  `.execute(trx)
  return settled
}

/** What becomes of one taken row. */
export type MovedRow = {
  readonly id: string
  readonly seq: string | null
  readonly accepted_at: string
  readonly stream: string
  readonly priority: number
  readonly status: 'accepted' | 'scheduled' | 'dead'
  readonly source: string
  readonly template: string | null
  readonly code: string | null
  readonly reason: string | null
  readonly recipient_domain: string | null
  readonly scheduled_at: string | null
  /** What it is found by; none of what was refused. */
  readonly terms: readonly string[]
  /** Each as `name:value`, as it is counted. */
  readonly tags: readonly string[]
  /** The message as JSON text: checked, or of a dead one as it was given. Of a sensitive one only what is not secret. */
  readonly message: string
  readonly is_sensitive: boolean
  /** Of a sensitive one: the rest. */
  readonly sealed: string | null
}

/**
 * All but the message. By name: a row may hold more than is stored, the message as it was given among it. What is null is left out,
 * which is read as null.
 */
function columnsOf(row: MovedRow, is_keyed: boolean) {
  return {
    id: row.id,
    seq: row.seq ?? undefined,
    accepted_at: row.accepted_at,
    stream: row.stream,
    priority: row.priority,
    status: row.status,
    source: row.source,
    template: row.template ?? undefined,
    code: row.code ?? undefined,
    reason: row.reason ?? undefined,
    recipient_domain: row.recipient_domain ?? undefined,
    scheduled_at: row.scheduled_at ?? undefined,
    terms: row.terms,
    tags: row.tags,
    is_sensitive: row.is_sensitive,
    sealed: row.sealed ?? undefined,
    is_keyed,
  } satisfies Record<Exclude<keyof MovedRow, 'message'> | 'is_keyed', unknown>
}

/**
 * With the jobs of those that are to be processed now. Throws when the queue of a stream is not there yet. `isLast`: the
 * transaction ends with it.
 */
export async function storeMessages(
  trx: Transaction,
  rows: readonly MovedRow[],
  { isLast = false }: { readonly isLast?: boolean } = {},
): Promise<void> {
  const { jobs, check } = processingOf(rows.filter(isAccepted))
  await sql`/* intake.store */ ${isLast ? lastly : sql``}
    with row as materialized (${recordsetOf(rows)}), ${STORED}, ${jobs}
    select ${check}
  `.execute(trx)
}

export type StoredNew = {
  /** Of the rows with keys those that are stored. */
  readonly claimed: ReadonlySet<string>
  /** Of the job that is the worker's. */
  readonly jobId: string | undefined
}

/**
 * Stores all but the rows of `keyed` whose key is taken, or waits at the outbox: one statement, and a transaction by itself. The job of those
 * that are to be processed now is the `worker`'s, where one is named: they have to be one job then.
 */
export async function storeNew(
  db: Database,
  rows: readonly MovedRow[],
  keyed: readonly KeyedRow[],
  { worker, ...claiming }: Claiming & { readonly worker: number | undefined },
): Promise<StoredNew> {
  const { jobs, check } = processingOf(rows.filter(isAccepted), {
    worker,
    ...(keyed.length > 0 ? { among: sql`select id from row` } : {}),
  })
  const ids = new Set(keyed.map(({ id }) => id))
  const { rows: found } = await sql<{ claimed: string[]; job_id: string | null }>`/* intake.store_new */
    with claimed as (${claimedKeys(keyed, claiming)}), row as materialized (
      ${recordsetOf(rows, (row) => ids.has(row.id))}
      where not is_keyed or id in (select id from claimed)
    ), ${STORED}, ${jobs}
    select
      array(select id::text from claimed) as claimed,
      ${worker === undefined ? sql`null` : sql`(select job_id from handed)`} as job_id,
      ${check}
  `.execute(db)
  const { claimed, job_id: jobId } = found[0] ?? {}
  return { claimed: new Set(claimed), jobId: jobId ?? undefined }
}

export function isAccepted({ status }: MovedRow): boolean {
  return status === 'accepted'
}

/** Put together as text, so that messages, JSON already, are neither parsed nor escaped again. */
function recordsetOf(
  rows: readonly MovedRow[],
  isKeyed: (row: MovedRow) => boolean = () => false,
): RawBuilder<unknown> {
  const recordset = rows.map((row) => {
    const known = columnsOf(row, isKeyed(row))
    // What was refused may hold escapes that Postgres cannot read into text (NUL, lone surrogates): it
    // travels as a string, one level of quoting further.
    if (row.status === 'dead') return JSON.stringify({ ...known, refused: row.message })
    return `${JSON.stringify(known).slice(0, -1)},"message":${row.message}}`
  })
  return sql`
      select *
      from json_to_recordset(${`[${recordset.join(',')}]`}::json) as row (
        id uuid, seq bigint, accepted_at timestamptz, stream text, priority smallint, status text,
        source text, template text, code text, reason text, recipient_domain text, scheduled_at timestamptz,
        terms text[], tags text[], is_sensitive boolean, sealed text, message json, refused text, is_keyed boolean
      )`
}

/** Parts of a statement: what is written of each `row`, but for the jobs. */
const STORED = sql`message as (
      insert into mail.message (id, seq, accepted_at, scheduled_at, stream, priority, status, source, template, last_error, is_sensitive)
      select
        id, coalesce(seq, nextval('mail.message_seq')), accepted_at, scheduled_at, stream, priority, status, source, template, code,
        is_sensitive
      from row
    ), content as (
      insert into mail.message_content (id, message, recipient_domain, tags, sealed, key_id)
      select id, coalesce(message, refused::json), recipient_domain, tags, sealed, split_part(sealed, '.', 3) from row
    ), dead as (
      insert into mail.dead_letter (message_id, stage, code, reason, stream, template, source, recipient_domain)
      select id, 'intake', code, reason, stream, template, source, recipient_domain from row where status = 'dead'
    ), scheduled as (
      insert into mail.scheduled (message_id, due_at, stream, priority)
      select id, scheduled_at, stream, priority from row where status = 'scheduled'
    ), finder as (
      insert into mail.finder (term, message_id)
      select term, id from row cross join unnest(terms) as term
    ), happened as (
      insert into mail.event (message_id, type, detail)
      select
        id,
        status,
        case status
          when 'dead' then json_build_object('stage', 'intake', 'code', code)
          when 'scheduled' then json_build_object('scheduled_at', scheduled_at)
        end
      from row
    )`

/** The key is free again: the message that claimed it was not stored. */
export async function releaseKey(trx: Transaction, id: string): Promise<void> {
  await sql`/* intake.release_key */
    delete from mail.idempotency where message_ids = array[${id}::uuid] and created_at = now()
  `.execute(trx)
}

export async function recordReplays(trx: Transaction, firstIds: readonly string[]): Promise<void> {
  await trx
    .insertInto('mail.event')
    .values(firstIds.map((id) => ({ message_id: id, type: 'replayed' })))
    .execute()
}

/** Those of the keys under which a row of an SQL writer waits, who was told that its message is the one. */
export async function findAtOutbox(trx: Transaction, keys: readonly string[]): Promise<Set<string>> {
  const { rows } = await sql<{ key: string }>`/* intake.find_at_outbox */ ${atOutbox(keys)}`.execute(trx)
  return new Set(rows.map(({ key }) => key))
}

function atOutbox(keys: readonly string[]): RawBuilder<unknown> {
  return sql`select distinct idempotency_key as key from mail.outbox where idempotency_key = any (${keys}::text[])`
}
