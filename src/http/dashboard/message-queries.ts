import { sql } from 'kysely'
import type { Database } from '../../db/pool.ts'
import { providerRefOf } from '../../provider-message-id.ts'

/** What a page says of a message beside what `GET /emails/:id` says. */
export type MessageFacts = {
  /** One sentence, also of what waits at the door or was never accepted. */
  readonly why: string
  readonly source: string | null
  readonly accepted_at: Date | null
  /** Nobody may read what is in it. Null: it is not stored yet, and nothing is known of it. */
  readonly is_sensitive: boolean | null
}

export async function factsOf(db: Database, id: string): Promise<MessageFacts | undefined> {
  const { rows } = await sql<MessageFacts>`/* dashboard.message */
    select mail.why(${id}::uuid) as why, m.source, m.accepted_at,
      case when m.id is not null then coalesce((to_jsonb(m) ->> 'is_sensitive')::boolean, false) end as is_sensitive
    from (select) one
    left join mail.message m on m.id = ${id}::uuid
  `.execute(db)
  return rows[0]
}

/** The messages that an HTTP provider gave this id, the latest first. */
export async function findByProviderId(db: Database, given: string): Promise<string[]> {
  const { rows } = await sql<{ message_id: string }>`/* dashboard.by_provider_id */
    select distinct r.message_id
    from mail.provider_ref r
    where r.provider_message_id = ${providerRefOf(given)}
    order by r.message_id desc
    limit 20
  `.execute(db)
  return rows.map((row) => row.message_id)
}

/** False when it is not unknown any more. */
export async function settleUnknown(db: Database, id: string, as: 'sent' | 'retry'): Promise<boolean> {
  const { rows } = await sql<{ done: boolean }>`/* dashboard.settle_unknown */
    select mail.settle_unknown(${id}::uuid, ${as}) as done
  `.execute(db)
  return rows[0]?.done === true
}
