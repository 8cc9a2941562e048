import { sql } from 'kysely'
import type { Database } from '../db/pool.ts'

/** A received mail on its way into the table. Strings hold neither control characters nor lone surrogates. */
export type NewInboxMail = {
  readonly mailFrom: string
  readonly recipients: readonly string[]
  readonly subject: string | null
  readonly sender: string | null
  readonly messageId: string | null
  readonly raw: Buffer
}

/** A mail as a list shows it: everything but its bytes. `id` is a bigint, as text. */
export type InboxEntry = {
  readonly id: string
  readonly received_at: Date
  readonly mail_from: string
  readonly recipients: string[]
  readonly size_bytes: number
  readonly subject: string | null
  readonly sender: string | null
  readonly message_id: string | null
  /** Of a message whose content is stored nowhere else in the clear. */
  readonly is_sensitive: boolean
}

export type InboxMail = InboxEntry & { readonly raw: Buffer }

export type InboxPage = {
  readonly entries: InboxEntry[]
  /** Give this as `beforeId` for the next, older page; undefined on the last one. */
  readonly olderThanId: string | undefined
}

const ENTRY_COLUMNS = [
  'id',
  'received_at',
  'mail_from',
  'recipients',
  'size_bytes',
  'subject',
  'sender',
  'message_id',
] as const

const isSensitive = sql<boolean>`exists (
  select from mail.message m where m.id = mail.inbox.message_id and m.is_sensitive
)`.as('is_sensitive')

/**
 * Stores all mails in one statement, in the order given. The bodies travel as one binary parameter that
 * the server slices: an array of bytea would go over the wire as hex text, twice the size.
 */
export async function insertInboxMails(db: Database, mails: readonly NewInboxMail[]): Promise<void> {
  let next = 1
  const starts = mails.map(({ raw }) => {
    const start = next
    next += raw.length
    return start
  })
  // An address cannot hold a line break, so one can join and split a list that unnest would flatten.
  const recipients = mails.map((mail) => mail.recipients.join('\n'))
  await sql`
    /* inbox.insert */
    insert into mail.inbox (mail_from, recipients, size_bytes, subject, sender, message_id, raw)
    select
      m.mail_from,
      string_to_array(m.recipients, e'\n'),
      m.size_bytes,
      m.subject,
      m.sender,
      m.message_id,
      substring(${Buffer.concat(mails.map((mail) => mail.raw))}::bytea from m.start for m.size_bytes)
    from unnest(
      ${mails.map((mail) => mail.mailFrom)}::text[],
      ${recipients}::text[],
      ${mails.map((mail) => mail.raw.length)}::int[],
      ${mails.map((mail) => mail.subject)}::text[],
      ${mails.map((mail) => mail.sender)}::text[],
      ${mails.map((mail) => mail.messageId)}::uuid[],
      ${starts}::int[]
    ) with ordinality as m (mail_from, recipients, size_bytes, subject, sender, message_id, start, position)
    order by m.position
  `.execute(db)
}

/** Deletes all but the newest `keep` mails. */
export async function trimInbox(db: Database, keep: number): Promise<void> {
  await sql`
    /* inbox.trim */
    delete from mail.inbox
    where id <= (select id from mail.inbox order by id desc offset ${keep}::bigint limit 1)
  `.execute(db)
}

/**
 * One page, newest first. `search` matches any part of the subject, the sender or a recipient, or a whole
 * Sluice id. Upper and lower case are alike; beyond ASCII only where the database's locale knows them.
 */
export async function listInbox(
  db: Database,
  page: {
    readonly search?: string | undefined
    readonly beforeId?: string | undefined
    readonly limit: number
  },
): Promise<InboxPage> {
  const { search, beforeId, limit } = page
  let query = db.selectFrom('mail.inbox').select(ENTRY_COLUMNS).select(isSensitive).orderBy('id', 'desc')
  if (beforeId !== undefined) query = query.where('id', '<', beforeId)
  if (search) {
    // strpos, not ilike: % and _ in a search are characters to look for.
    query = query.where(sql<boolean>`(
      strpos(lower(concat_ws(e'\n', subject, sender, array_to_string(recipients, e'\n'))), lower(${search})) > 0
      or message_id::text = lower(${search})
    )`)
  }
  const rows = await query.limit(limit + 1).execute()
  const entries = rows.slice(0, limit)
  return { entries, olderThanId: rows.length > limit ? entries.at(-1)?.id : undefined }
}

export async function countInbox(db: Database): Promise<number> {
  const { count } = await db
    .selectFrom('mail.inbox')
    .select((eb) => eb.fn.countAll<string>().as('count'))
    .executeTakeFirstOrThrow()
  return Number(count)
}

export async function readInboxMail(db: Database, id: string): Promise<InboxMail | undefined> {
  return await db
    .selectFrom('mail.inbox')
    .select([...ENTRY_COLUMNS, 'raw'])
    .select(isSensitive)
    .where('id', '=', id)
    .executeTakeFirst()
}

export async function clearInbox(db: Database): Promise<void> {
  await db.deleteFrom('mail.inbox').execute()
}
