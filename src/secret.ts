import { randomBytes } from 'node:crypto'
import { sql } from 'kysely'
import type { Database } from './db/pool.ts'

const BYTES = 32

/** The key of that name, the same for every process; made by whoever asks first. */
export async function readSecret(db: Database, name: string): Promise<Buffer> {
  const { rows } = await sql<{ value: Buffer }>`/* secret.read */
    with made as (
      insert into mail.secret (name, value)
      select ${name}, ${randomBytes(BYTES)}
      where not exists (select from mail.secret where name = ${name})
      on conflict do nothing
      returning value
    )
    select value from made
    union all
    select value from mail.secret where name = ${name}
  `.execute(db)
  const value = rows[0]?.value
  // Somebody else made it between our look and our insert; it is committed now.
  return value ?? readSecret(db, name)
}
