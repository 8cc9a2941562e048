import { type RawBuilder, type SqlBool, sql } from 'kysely'
import type { Database } from '../db/pool.ts'
import { sqlState } from '../db/sqlstate.ts'
import { inTransaction } from '../db/transaction.ts'
import { ApiError } from '../errors.ts'
import type { Address, Message } from '../message/message.ts'
import type { MessageState } from '../states.ts'
import { createdAt } from './queries.ts'

/** An email without its bodies; what could not be read has no envelope. */
export type ListedEmail = {
  readonly id: string
  readonly status: MessageState
  readonly stream: string
  readonly is_sensitive: boolean
  readonly created_at: string
  readonly scheduled_at: Date | null
  readonly subject: string | null
  readonly from: Address | null
  readonly to: readonly Address[] | null
  readonly cc: readonly Address[] | null
  readonly bcc: readonly Address[] | null
  readonly reply_to: readonly Address[] | null
  readonly tags: Message['tags'] | null
  /** Types of what happened, in order; of what has left us, since only that can be opened. */
  readonly events: readonly string[]
}

export type EmailFilter = {
  readonly states?: readonly MessageState[]
  readonly stream?: string
  /** Terms of `mail.finder`, all of which a message must have. */
  readonly terms: readonly string[]
  readonly acceptedAfter?: Date
  readonly acceptedBefore?: Date
}

/** Where a page begins: after an email, going back in time, or before it. */
export type Cursor = { readonly id: string; readonly direction: 'after' | 'before' }

/** Past it the filter is too wide for so rare a match, and whoever asked is told how to narrow it. */
const LONGEST_SEARCH_MS = 5_000
const QUERY_CANCELED = '57014'

/** States whose messages are on a list of their own, which is far shorter than that of all messages. */
const LISTS: Partial<Record<MessageState, RawBuilder<unknown>>> = {
  scheduled: sql`mail.scheduled`,
  dead: sql`mail.dead_letter`,
}

/** Newest first, at most `limit`, from the cursor on. Throws an ApiError when the search takes too long. */
export async function findEmails(
  db: Database,
  filter: EmailFilter,
  cursor: Cursor | undefined,
  limit: number,
): Promise<ListedEmail[]> {
  const order = cursor?.direction === 'before' ? sql`asc` : sql`desc`
  const [term] = filter.terms
  const source =
    term === undefined
      ? sql`mail.message m`
      : sql`mail.finder f join mail.message m on m.id = f.message_id and f.term = ${term}`
  const query = sql<ListedEmail>`/* http.list_emails */
    select
      m.id, m.status, m.stream, m.is_sensitive, ${createdAt} as created_at, m.scheduled_at,
      coalesce(c.subject #>> '{}', p.subject) as subject,
      coalesce(c."from", p.sender) as "from", c."to", c.cc, c.bcc,
      case when json_array_length(c.reply_to) > 0 then c.reply_to else p.reply_to end as reply_to,
      c.tags,
      case when m.status in ('sent', 'delivered')
        then array(select e.type from mail.event e where e.message_id = m.id order by e.at, e.id)
        else '{}'
      end as events
    from (
      select m.id, m.status, m.stream, m.is_sensitive, m.accepted_at, m.scheduled_at
      from ${source}
      where ${sql.join(conditionsOf(filter, cursor), sql` and `)}
      order by m.id ${order}
      limit ${limit}
    ) m
    left join mail.message_prepared p on p.id = m.id
    left join mail.message_content content on content.id = m.id
    -- What the intake refused is kept as it was given, and may hold what Postgres cannot take apart.
    cross join lateral json_to_record(
      case when m.status not in ('dead', 'canceled')
        or exists (select from mail.event e where e.message_id = m.id and e.type in ('accepted', 'scheduled'))
      then content.message end
    ) as c (subject json, "from" json, "to" json, cc json, bcc json, reply_to json, tags json)
    order by m.id desc
  `
  try {
    return await inTransaction(db, async (trx) => {
      await sql`select set_config('statement_timeout', ${String(LONGEST_SEARCH_MS)}, true)`.execute(trx)
      return (await query.execute(trx)).rows
    })
  } catch (error) {
    if (sqlState(error) !== QUERY_CANCELED) throw error
    throw new ApiError(
      'validation_error',
      'Too many emails would have to be looked through. Narrow the time with `accepted_after` and `accepted_before`.',
      { cause: error },
    )
  }
}

function conditionsOf(filter: EmailFilter, cursor: Cursor | undefined): RawBuilder<SqlBool>[] {
  const { states, stream, acceptedAfter, acceptedBefore } = filter
  const [term, ...otherTerms] = filter.terms
  const id = term === undefined ? sql`m.id` : sql`f.message_id`
  const conditions = [sql<SqlBool>`true`]
  if (cursor !== undefined) {
    conditions.push(sql`${id} ${cursor.direction === 'after' ? sql`<` : sql`>`} ${cursor.id}::uuid`)
  }
  // Ids are of the same moment, give or take what the clocks of two hosts differ: they bound the search.
  if (acceptedAfter !== undefined) {
    conditions.push(
      sql`m.accepted_at > ${acceptedAfter} and ${id} >= mail.uuid7_floor(greatest(${acceptedAfter}::timestamptz - interval '1 hour', 'epoch'))`,
    )
  }
  if (acceptedBefore !== undefined) {
    conditions.push(
      sql`m.accepted_at < ${acceptedBefore} and ${id} <= mail.uuid7_floor(greatest(${acceptedBefore}::timestamptz + interval '1 hour', 'epoch'))`,
    )
  }
  if (stream !== undefined) conditions.push(sql`m.stream = ${stream}`)
  if (states !== undefined) conditions.push(sql`m.status = any (${states}::text[])`)
  const list = states?.length === 1 ? LISTS[states[0] as MessageState] : undefined
  if (list !== undefined) conditions.push(sql`m.id in (select message_id from ${list})`)
  for (const each of otherTerms) {
    conditions.push(
      sql`exists (select from mail.finder other where other.term = ${each} and other.message_id = m.id)`,
    )
  }
  return conditions
}

export async function isEmail(db: Database, id: string): Promise<boolean> {
  const row = await db.selectFrom('mail.message').select('id').where('id', '=', id).executeTakeFirst()
  return row !== undefined
}
