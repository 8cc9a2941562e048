import { sql } from 'kysely'
import type { Database } from '../db/pool.ts'

export async function listSources(db: Database): Promise<object[]> {
  return readSources(db, null)
}

export async function findSource(db: Database, name: string): Promise<object> {
  return (await readSources(db, name))[0] ?? {}
}

async function readSources(db: Database, name: string | null): Promise<object[]> {
  const { rows } = await sql<object>`/* webhook_source.list */
    select
      'webhook_source' as object, s.name, s.kind, s.provider, s.secrets_env, s.options, s.created_at,
      w.path, w.waiting::double precision, w.parked::double precision, w.refused::double precision, w.last_refused_at, w.last_refusal
    from mail.webhook_source s
    join mail.webhook_status w on w.endpoint = s.name
    where ${name}::text is null or s.name = ${name}
    order by s.name
  `.execute(db)
  return rows
}

export type SourceRow = {
  readonly name: string
  readonly kind: string
  readonly provider: string | null
  readonly secretsEnv: string | null
  readonly options: object
}

/** Makes the source, or replaces all of one that is there. */
export async function saveSource(db: Database, row: SourceRow): Promise<void> {
  await sql`/* webhook_source.save */
    insert into mail.webhook_source (name, kind, provider, secrets_env, options)
    values (${row.name}, ${row.kind}, ${row.provider}, ${row.secretsEnv}, ${JSON.stringify(row.options)}::jsonb)
    on conflict (name) do update
    set kind = excluded.kind, provider = excluded.provider, secrets_env = excluded.secrets_env, options = excluded.options
  `.execute(db)
}

export async function deleteSource(db: Database, name: string): Promise<boolean> {
  const gone = await db.deleteFrom('mail.webhook_source').where('name', '=', name).executeTakeFirst()
  return gone.numDeletedRows > 0n
}
