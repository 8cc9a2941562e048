import { sql } from 'kysely'
import type { Database } from '../db/pool.ts'
import type { Address, Attachment, Message } from '../message/message.ts'
import type { MessageState } from '../states.ts'

export type EmailEvent = {
  readonly at: string
  readonly type: string
  readonly recipient: string | null
  readonly detail: Readonly<Record<string, unknown>> | null
}

export type Email = {
  readonly id: string
  readonly status: MessageState
  readonly stream: string
  readonly priority: number
  readonly provider: string | null
  readonly attempts: number
  readonly created_at: string
  readonly sent_at: Date | null
  readonly scheduled_at: Date | null
  readonly next_attempt_at: Date | null
  readonly provider_message_id: string | null
  readonly last_error: string | null
  readonly template: string | null
  readonly template_version: number | null
  /** As it was accepted; of a message that could not be understood, whatever was given. */
  readonly message: Partial<Message> | unknown
  /** Its retention is over: only the envelope is left of the message, or nothing. */
  readonly is_content_removed: boolean
  readonly subject: string | null
  readonly html: string | null
  readonly text: string | null
  /** The template's, when the message names none. */
  readonly sender: Address | null
  readonly reply_to: readonly Address[] | null
  /** All attachments, once those given by URL were fetched. */
  readonly fetched: readonly Attachment[] | null
  readonly reason: string | null
  readonly is_sensitive: boolean
  readonly timeline: readonly EmailEvent[]
}

/** The moment of acceptance as Resend prints it: `2023-04-03 22:13:42.674981+00`. */
export const createdAt = sql<string>`to_char(m.accepted_at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS.US') || '+00'`

export async function findEmail(db: Database, id: string): Promise<Email | undefined> {
  const { rows } = await sql<Email>`/* http.find_email */
    select
      m.id, m.status, m.stream, m.priority, m.provider, m.attempts, m.sent_at, m.scheduled_at,
      m.next_attempt_at, m.is_sensitive, m.provider_message_id, m.last_error, m.template, m.template_version,
      ${createdAt} as created_at, c.message, c.id is null or c.removed_at is not null as is_content_removed, p.subject, p.html, p.text, p.sender, p.reply_to, p.attachments as fetched, d.reason,
      coalesce((
        select json_agg(json_build_object('at', e.at, 'type', e.type, 'recipient', e.recipient, 'detail', e.detail) order by e.at, e.id)
        from mail.event e
        where e.message_id = ${id}::uuid
      ), '[]') as timeline
    from mail.message m
    left join mail.message_content c on c.id = ${id}::uuid
    left join mail.message_prepared p on p.id = ${id}::uuid
    left join mail.dead_letter d on d.message_id = m.id
    where m.id = ${id}::uuid
  `.execute(db)
  return rows[0]
}

/** What was appended and no mover has taken yet: for milliseconds, usually. */
export type WaitingEmail = Pick<Email, 'id' | 'created_at' | 'message'> & {
  readonly stream: string | null
  readonly priority: number | null
  readonly received_at: Date
}

export async function findAtTheDoor(db: Database, id: string): Promise<WaitingEmail | undefined> {
  const { rows } = await sql<WaitingEmail>`/* http.find_at_the_door */
    select m.id, m.stream, m.priority, m.message, m.accepted_at as received_at, ${createdAt} as created_at
    from (
      select id, stream, priority, message, received_at as accepted_at from mail.intake where id = ${id}::uuid
      union all
      select id, stream, priority, message, received_at from mail.outbox where id = ${id}::uuid
    ) m
  `.execute(db)
  return rows[0]
}

export async function isAtTheDoor(db: Database, id: string): Promise<boolean> {
  const { rows } = await sql<{ found: boolean }>`/* http.at_the_door */
    select exists (select from mail.intake where id = ${id}::uuid)
      or exists (select from mail.outbox where id = ${id}::uuid) as found
  `.execute(db)
  return rows[0]?.found === true
}

/** The state the message is in now; null when there is no such message. */
export async function cancel(db: Database, id: string): Promise<MessageState | null> {
  const { rows } = await sql<{ state: MessageState | null }>`/* http.cancel */
    select mail.cancel(${id}::uuid) as state
  `.execute(db)
  return rows[0]?.state ?? null
}

/** Likewise. */
export async function reschedule(db: Database, id: string, at: Date): Promise<MessageState | null> {
  const { rows } = await sql<{ state: MessageState | null }>`/* http.reschedule */
    select mail.reschedule(${id}::uuid, ${at}::timestamptz) as state
  `.execute(db)
  return rows[0]?.state ?? null
}
