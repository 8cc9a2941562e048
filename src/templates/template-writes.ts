import { sql } from 'kysely'
import type { Database } from '../db/pool.ts'
import { inTransaction, type Transaction } from '../db/transaction.ts'
import { ApiError } from '../errors.ts'
import type { TemplateContent } from './template-content.ts'
import { lockTemplates, refuseGraph } from './template-graph.ts'
import { findTemplate, type StoredTemplate } from './templates.ts'

export type TemplateIdentity = { readonly name: string; readonly alias: string | null }
/** Absent: as it is. */
export type TemplateChanges = Partial<TemplateIdentity & TemplateContent>

const MAX_NAME_CHARS = 200

/** A new template with a draft. Throws an ApiError when the name or the alias is taken. */
export async function createTemplate(
  db: Database,
  identity: TemplateIdentity,
  content: TemplateContent,
): Promise<StoredTemplate> {
  return inTransaction(db, async (trx) => {
    await lockTemplates(trx)
    return insertTemplate(trx, identity, content)
  })
}

/**
 * Changes name and alias at once, and content in the draft: one that is not published in place, otherwise the next
 * version begins as a copy of the latest. Undefined: no such template.
 */
export async function changeTemplate(
  db: Database,
  reference: string,
  changes: TemplateChanges,
): Promise<StoredTemplate | undefined> {
  return inTransaction(db, async (trx) => {
    await lockTemplates(trx)
    const shown = await findTemplate(trx, reference)
    if (shown === undefined) return undefined
    const { name, alias, ...content } = changes
    if (name !== undefined || alias !== undefined) await changeIdentity(trx, shown, { name, alias })
    if (Object.keys(content).length > 0) await changeContent(trx, shown, content)
    return findTemplate(trx, shown.id)
  })
}

/** A new template whose draft has the content that is shown of this one. Undefined: no such template. */
export async function duplicateTemplate(
  db: Database,
  reference: string,
): Promise<StoredTemplate | undefined> {
  return inTransaction(db, async (trx) => {
    await lockTemplates(trx)
    const shown = await findTemplate(trx, reference)
    if (shown === undefined) return undefined
    const name = await freeName(trx, shown.name)
    return insertTemplate(trx, { name, alias: null }, contentOf(shown))
  })
}

/** Its names are free again; its versions stay. Undefined: no such template. */
export async function removeTemplate(db: Database, reference: string): Promise<string | undefined> {
  return inTransaction(db, async (trx) => {
    await lockTemplates(trx)
    const shown = await findTemplate(trx, reference)
    if (shown === undefined) return undefined
    await trx
      .updateTable('mail.template')
      .set({ removed_at: new Date() })
      .where('id', '=', shown.id)
      .execute()
    return shown.id
  })
}

async function insertTemplate(
  trx: Transaction,
  identity: TemplateIdentity,
  content: TemplateContent,
): Promise<StoredTemplate> {
  await refuseTaken(trx, 'name', identity.name)
  if (identity.alias !== null) await refuseTaken(trx, 'alias', identity.alias)
  const { id } = await trx
    .insertInto('mail.template')
    .values(identity)
    .returning('id')
    .executeTakeFirstOrThrow()
  await trx
    .insertInto('mail.template_version')
    .values({ template_id: id, version: 1, ...columnsOf(content) })
    .execute()
  return reread(trx, id)
}

async function changeIdentity(
  trx: Transaction,
  shown: StoredTemplate,
  { name = shown.name, alias = shown.alias }: { name: string | undefined; alias: string | null | undefined },
): Promise<void> {
  if (name !== shown.name) await refuseTaken(trx, 'name', name, shown.id)
  if (alias !== null && alias !== shown.alias) await refuseTaken(trx, 'alias', alias, shown.id)
  await trx
    .updateTable('mail.template')
    .set({ name, alias, updated_at: new Date() })
    .where('id', '=', shown.id)
    .execute()
  // Somebody may use the new name already.
  if (name !== shown.name) await refuseGraph(trx, name)
}

async function changeContent(
  trx: Transaction,
  shown: StoredTemplate,
  changes: Partial<TemplateContent>,
): Promise<void> {
  const content = { ...contentOf(shown), ...changes }
  if (content.html === null && content.text === null) {
    throw new ApiError('validation_error', 'A template needs a body: keep `html` or `text`.')
  }
  if (shown.published_at === null) {
    await trx
      .updateTable('mail.template_version')
      .set({ ...columnsOf(content), updated_at: new Date() })
      .where('template_id', '=', shown.id)
      .where('version', '=', shown.version)
      .execute()
    return
  }
  await trx
    .insertInto('mail.template_version')
    .values({ template_id: shown.id, version: shown.version + 1, ...columnsOf(content) })
    .execute()
}

async function reread(trx: Transaction, id: string): Promise<StoredTemplate> {
  const stored = await findTemplate(trx, id)
  if (stored === undefined) throw new Error(`template ${id} vanished under the lock`)
  return stored
}

function contentOf(shown: StoredTemplate): TemplateContent {
  const { subject, html, text, sender, reply_to, variables, is_strict } = shown
  return { subject, html, text, sender, reply_to, variables, is_strict }
}

function columnsOf({ variables, reply_to, ...content }: TemplateContent) {
  return {
    ...content,
    variables: JSON.stringify(variables),
    reply_to: reply_to === null ? null : [...reply_to],
  }
}

/** One set of names: what is one template's name cannot be another one's alias. */
async function refuseTaken(
  trx: Transaction,
  field: 'name' | 'alias',
  value: string,
  ownId: string | null = null,
): Promise<void> {
  const [taken] = await findNamed(trx, [value], ownId)
  if (taken === undefined) return
  throw new ApiError(
    'validation_error',
    `Invalid \`${field}\`: the template ${taken.id} is called \`${value}\` already; ` +
      'change that one with `PATCH /templates/:id`, or use another name.',
  )
}

async function freeName(trx: Transaction, name: string): Promise<string> {
  const candidates = Array.from({ length: 1_000 }, (_, n) => {
    const suffix = n === 0 ? ' (copy)' : ` (copy ${n + 1})`
    return `${Array.from(name)
      .slice(0, MAX_NAME_CHARS - suffix.length)
      .join('')
      .trimEnd()}${suffix}`
  })
  const taken = await findNamed(trx, candidates, null)
  const names = new Set(taken.flatMap((each) => [each.name, each.alias]))
  const free = candidates.find((candidate) => !names.has(candidate))
  if (free !== undefined) return free
  throw new ApiError(
    'validation_error',
    `There are ${candidates.length} copies of this template; remove some.`,
  )
}

async function findNamed(
  trx: Transaction,
  names: readonly string[],
  ownId: string | null,
): Promise<{ id: string; name: string; alias: string | null }[]> {
  const { rows } = await sql<{ id: string; name: string; alias: string | null }>`/* templates.named */
    select id, name, alias
    from mail.template
    where removed_at is null and (name = any (${names}::text[]) or alias = any (${names}::text[]))
      and id is distinct from ${ownId}::uuid
  `.execute(trx)
  return rows
}
