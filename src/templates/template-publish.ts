import { sql } from 'kysely'
import type { Database } from '../db/pool.ts'
import { inTransaction, type Transaction } from '../db/transaction.ts'
import { ApiError } from '../errors.ts'
import type { TemplatePartial } from './template-content.ts'
import { lockTemplates, refuseGraph } from './template-graph.ts'
import { findPartials } from './template-partials.ts'
import { findTemplate, type StoredTemplate } from './templates.ts'

export type PublishDeps = {
  readonly db: Database
  /** Why these sources are not a usable template, or undefined when they are. */
  readonly checkTemplate: (source: CheckedSource) => Promise<string | undefined>
}

export type CheckedSource = {
  readonly subject: string | null
  readonly html: string | null
  readonly text: string | null
  /** `unchecked`: what it uses may be published later. */
  readonly partials: readonly TemplatePartial[] | 'unchecked'
}

/**
 * Publishes the draft; without one, all stays as it is. Throws an ApiError when what it uses is not published, or
 * would use it in turn. Undefined: no such template.
 */
export async function publishTemplate(
  deps: PublishDeps,
  reference: string,
): Promise<StoredTemplate | undefined> {
  return inTransaction(deps.db, async (trx) => {
    await lockTemplates(trx)
    const draft = await findTemplate(trx, reference)
    if (draft === undefined || draft.published_at !== null) return draft
    await refuseUnusable(deps, trx, draft)
    await sql`/* templates.publish */
      update mail.template_version v
      set published_at = now(),
        -- What was published by SQL meanwhile may have a higher number.
        version = greatest(v.version, (select max(o.version) + 1 from mail.template_version o where o.template_id = v.template_id and o.published_at is not null))
      where v.template_id = ${draft.id}::uuid and v.published_at is null
    `.execute(trx)
    return findTemplate(trx, draft.id)
  })
}

/**
 * Publishes what an older version holds, as a new version; the draft stays, and becomes the one after it. The version
 * that is in use already stays as it is. Undefined: no such template.
 */
export async function rollBackTemplate(
  deps: PublishDeps,
  reference: string,
  version: number,
): Promise<StoredTemplate | undefined> {
  return inTransaction(deps.db, async (trx) => {
    await lockTemplates(trx)
    const shown = await findTemplate(trx, reference)
    if (shown === undefined) return undefined
    const older = await findTemplate(trx, shown.id, version)
    const published = await publishedVersions(trx, shown.id)
    if (older === undefined || older.published_at === null) {
      const known = published.length === 0 ? 'none is published' : `published are ${published.join(', ')}`
      throw new ApiError(
        'validation_error',
        `Invalid \`version\`: there is no published version ${version}; ${known}.`,
      )
    }
    const latest = Math.max(...published)
    if (version === latest) return older
    await refuseUnusable(deps, trx, older)
    // The draft steps aside, so that numbers go on in the order of publishing.
    await sql`/* templates.renumber_draft */
      update mail.template_version set version = ${latest + 2}
      where template_id = ${shown.id}::uuid and published_at is null
    `.execute(trx)
    await sql`/* templates.roll_back */
      insert into mail.template_version
        (template_id, version, subject, html, text, sender, reply_to, variables, is_strict, published_at)
      select template_id, ${latest + 1}, subject, html, text, sender, reply_to, variables, is_strict, now()
      from mail.template_version
      where template_id = ${shown.id}::uuid and version = ${version}
    `.execute(trx)
    return findTemplate(trx, shown.id, latest + 1)
  })
}

async function refuseUnusable(deps: PublishDeps, trx: Transaction, version: StoredTemplate): Promise<void> {
  const { id, name, uses, subject, html, text } = version
  await refuseGraph(trx, name, uses)
  const partials = await findPartials(trx, [{ root: id, uses }])
  const fault = await deps.checkTemplate({ subject, html, text, partials })
  if (fault !== undefined) throw new ApiError('validation_error', fault)
}

async function publishedVersions(trx: Transaction, id: string): Promise<number[]> {
  const rows = await trx
    .selectFrom('mail.template_version')
    .select('version')
    .where('template_id', '=', id)
    .where('published_at', 'is not', null)
    .orderBy('version')
    .execute()
  return rows.map((row) => row.version)
}
