import { sql } from 'kysely'
import type { Database } from '../db/pool.ts'
import type { Transaction } from '../db/transaction.ts'
import type { TemplateContent } from './template-content.ts'

/** A template and one of its versions. Versions grow by one; a published one never changes. */
export type StoredTemplate = TemplateContent & {
  readonly id: string
  readonly name: string
  readonly alias: string | null
  readonly version: number
  readonly version_id: string
  /** Names of the templates this version uses. */
  readonly uses: readonly string[]
  readonly created_at: Date
  readonly updated_at: Date
  /** When this version was published; null: it is the draft. */
  readonly published_at: Date | null
  /** When the latest of its versions was; null: none is. */
  readonly last_published_at: Date | null
  readonly has_draft: boolean
}

/** Without its content, which can be large. */
export type TemplateSummary = Omit<StoredTemplate, keyof TemplateContent | 'uses'>

const UUID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i

/** The draft, or the latest version when there is none; or the version asked for. By id, alias or name. */
export async function findTemplate(
  db: Database | Transaction,
  reference: string,
  version: number | null = null,
): Promise<StoredTemplate | undefined> {
  const { rows } = await sql<StoredTemplate>`/* templates.find */
    select ${columns}
    from mail.template t
    cross join lateral (
      select * from mail.template_version v
      where v.template_id = t.id and (${version}::integer is null or v.version = ${version}::integer)
      order by v.published_at is null desc, v.version desc
      limit 1
    ) v
    where t.id = (${idOf(reference)})
  `.execute(db)
  return rows[0]
}

/** Every version, the draft and the latest first; empty when there is no such template. */
export async function listVersions(db: Database, reference: string): Promise<TemplateSummary[]> {
  const { rows } = await sql<TemplateSummary>`/* templates.versions */
    select ${summary}
    from mail.template t
    join mail.template_version v on v.template_id = t.id
    where t.id = (${idOf(reference)})
    order by v.published_at is null desc, v.version desc
  `.execute(db)
  return rows
}

export type TemplatePage = { readonly templates: TemplateSummary[]; readonly hasMore: boolean }
export type PageOfTemplates = {
  readonly limit: number
  /** The id of a template of the list: those that come after it, or before it. */
  readonly after: string | null
  readonly before: string | null
}

/** The latest made first, each as its draft or latest version. Undefined when the cursor is no template. */
export async function listTemplates(db: Database, page: PageOfTemplates): Promise<TemplatePage | undefined> {
  const { limit, after, before } = page
  const cursor = after ?? before
  const position = cursor === null ? undefined : await positionOf(db, cursor)
  if (cursor !== null && position === undefined) return undefined
  const { rows } = await sql<TemplateSummary>`/* templates.list */
    select ${summary}
    from mail.template t
    cross join lateral (
      select * from mail.template_version v
      where v.template_id = t.id
      order by v.published_at is null desc, v.version desc
      limit 1
    ) v
    where t.removed_at is null
      and (${after}::uuid is null or (t.created_at, t.id) < (${position ?? null}::timestamptz, ${after}::uuid))
      and (${before}::uuid is null or (t.created_at, t.id) > (${position ?? null}::timestamptz, ${before}::uuid))
    order by ${before === null ? sql`t.created_at desc, t.id desc` : sql`t.created_at, t.id`}
    limit ${limit + 1}
  `.execute(db)
  const templates = rows.slice(0, limit)
  return { templates: before === null ? templates : templates.toReversed(), hasMore: rows.length > limit }
}

/** As text: a Date has no microseconds. One that was removed meanwhile still has its place. */
async function positionOf(db: Database, cursor: string): Promise<string | undefined> {
  if (!UUID.test(cursor)) return undefined
  const { rows } = await sql<{ created_at: string }>`/* templates.position */
    select created_at::text as created_at from mail.template where id = ${cursor}::uuid
  `.execute(db)
  return rows[0]?.created_at
}

const summary = sql`
  t.id, t.name, t.alias, v.version, v.id as version_id, t.created_at, greatest(t.updated_at, v.updated_at) as updated_at,
  v.published_at,
  (select max(p.published_at) from mail.template_version p where p.template_id = t.id) as last_published_at,
  exists (select from mail.template_version d where d.template_id = t.id and d.published_at is null) as has_draft`

const columns = sql`
  ${summary}, v.subject, v.html, v.text, v.sender, v.reply_to, v.variables, v.is_strict, v.uses`

/** An id before an alias before a name, should one template be called what another one is. */
function idOf(reference: string) {
  const id = UUID.test(reference) ? reference : null
  return sql`
    select named.id from mail.template named
    where named.removed_at is null
      and (named.id = ${id}::uuid or named.alias = ${reference} or named.name = ${reference})
    order by (named.id = ${id}::uuid) is true desc, (named.alias = ${reference}) is true desc
    limit 1`
}
