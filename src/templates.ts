import { randomUUID } from 'node:crypto'
import { sql } from 'kysely'
import type { Database } from './db/pool.ts'
import { inTransaction, type Transaction } from './db/transaction.ts'

/** A template as it is stored: versions grow by one, a published one never changes. */
export type StoredTemplate = {
  readonly id: string
  readonly version: number
  readonly name: string
  readonly subject: string | null
  readonly html: string | null
  readonly text: string | null
  readonly created_at: Date
  readonly published_at: Date | null
}

export type TemplateDraft = Pick<StoredTemplate, 'name' | 'subject' | 'html' | 'text'>

/**
 * Saves a draft under its name: version 1 of a new template, the next version of one that is published,
 * or in place of a draft that is not.
 */
export async function saveDraft(db: Database, draft: TemplateDraft): Promise<StoredTemplate> {
  return inTransaction(db, async (trx) => {
    await lockName(trx, draft.name)
    const latest = await trx
      .selectFrom('mail.template')
      .selectAll()
      .where('name', '=', draft.name)
      .orderBy('version', 'desc')
      .limit(1)
      .executeTakeFirst()
    const parts = { subject: draft.subject, html: draft.html, text: draft.text }
    if (latest !== undefined && latest.published_at === null) {
      return trx
        .updateTable('mail.template')
        .set({ ...parts, created_at: new Date() })
        .where('id', '=', latest.id)
        .where('version', '=', latest.version)
        .returningAll()
        .executeTakeFirstOrThrow()
    }
    const identity = { id: latest?.id ?? randomUUID(), version: (latest?.version ?? 0) + 1, name: draft.name }
    return trx
      .insertInto('mail.template')
      .values({ ...identity, ...parts })
      .returningAll()
      .executeTakeFirstOrThrow()
  })
}

/** Publishes the latest version; one that is published already stays as it is. Undefined: no such template. */
export async function publishLatest(db: Database, reference: string): Promise<StoredTemplate | undefined> {
  return inTransaction(db, async (trx) => {
    const named = await trx
      .selectFrom('mail.template')
      .select('name')
      .where(matches(reference))
      .orderBy('version', 'desc')
      .limit(1)
      .executeTakeFirst()
    if (named === undefined) return undefined
    await lockName(trx, named.name)
    const { rows } = await sql<StoredTemplate>`/* templates.publish */
      with latest as (
        select id, version from mail.template where name = ${named.name} order by version desc limit 1
      ), published as (
        update mail.template t set published_at = now()
        from latest
        where t.id = latest.id and t.version = latest.version and t.published_at is null
        returning t.*
      )
      select * from published
      union all
      select t.* from mail.template t join latest using (id, version) where t.published_at is not null
    `.execute(trx)
    return rows[0]
  })
}

/** Two who save or publish under one name at the same moment: the second sees what the first has done. */
async function lockName(trx: Transaction, name: string): Promise<void> {
  await sql`/* templates.lock */
    select pg_advisory_xact_lock(hashtextextended(${`template ${name}`}, 0))
  `.execute(trx)
}

/** Every version, the latest first. */
export async function listVersions(db: Database, reference: string): Promise<StoredTemplate[]> {
  const { rows } = await sql<StoredTemplate>`/* templates.versions */
    select * from mail.template where ${matches(reference)} order by version desc
  `.execute(db)
  return rows
}

/** The latest version of each template, by name. */
export async function listTemplates(db: Database): Promise<StoredTemplate[]> {
  const { rows } = await sql<StoredTemplate>`/* templates.list */
    select distinct on (name) * from mail.template order by name, version desc
  `.execute(db)
  return rows
}

function matches(reference: string) {
  return sql<boolean>`(name = ${reference} or id::text = ${reference.toLowerCase()})`
}
