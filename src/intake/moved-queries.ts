import { sql } from 'kysely'
import type { Database } from '../db/pool.ts'

export type FoundRow = {
  readonly id: string
  readonly is_stored: boolean
  /** Set when a mover refused it. */
  readonly refused_code: string | null
  readonly refused_reason: string | null
  /** The message that stands for its key, when it has one that is known. */
  readonly first_id: string | null
  readonly is_same: boolean | null
}

/** Where these messages stand when another process's mover may have taken them. */
export async function findMoved(
  db: Database,
  waiting: readonly { readonly id: string; readonly key: string | null; readonly message: string }[],
): Promise<FoundRow[]> {
  const { rows } = await sql<FoundRow>`/* intake.find_moved */
    select
      w.id,
      m.id is not null as is_stored,
      d.code as refused_code,
      d.reason as refused_reason,
      i.message_ids[1] as first_id,
      i.fingerprint = any (mail.fingerprints(w.message)) as is_same
    from json_to_recordset(${JSON.stringify(waiting)}::json) as w (id uuid, key text, message text)
    left join mail.message m on m.id = w.id
    left join mail.dead_letter d on d.message_id = w.id and d.stage = 'intake'
    left join mail.idempotency i on i.scope = 'send' and i.key = w.key and i.expires_at > clock_timestamp()
    where m.id is not null or i.key is not null
  `.execute(db)
  return rows
}
