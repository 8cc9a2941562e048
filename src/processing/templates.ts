import { hash } from 'node:crypto'
import type { Database } from '../db/pool.ts'
import type { TemplateReference } from '../message/message.ts'
import { type FoundPartial, findPartials } from '../templates/template-partials.ts'
import * as queries from './queries.ts'
import type { TemplateSource } from './render/contract.ts'

/** A published version with all that it uses, as published now. */
export type UsableTemplate = queries.TemplateVersion & { readonly partials: readonly FoundPartial[] }

export type Templates = (reference: TemplateReference) => UsableTemplate | undefined

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i

/** What the references of a batch mean at this moment: one statement, and one more when any of them uses others. */
export async function findTemplates(
  db: Database,
  batch: readonly queries.AcceptedMessage[],
): Promise<Templates> {
  const wanted = new Map<string, queries.WantedTemplate>()
  for (const { message } of batch) {
    if (message.template === undefined) continue
    const { id: reference, version = null } = message.template
    wanted.set(keyOf(reference, version), { reference, version, id: UUID.test(reference) ? reference : null })
  }
  if (wanted.size === 0) return () => undefined
  const rows = await queries.findTemplates(db, [...wanted.values()])
  const roots = new Map(rows.map((row) => [versionKey(row), { root: versionKey(row), uses: row.uses }]))
  const partials = Map.groupBy(await findPartials(db, [...roots.values()]), ({ root }) => root)
  const found = new Map(
    rows.map((row) => [
      keyOf(row.reference, row.wanted_version),
      { ...row, partials: partials.get(versionKey(row)) ?? [] },
    ]),
  )
  return ({ id, version = null }) => found.get(keyOf(id, version))
}

/** A subject the message brings wins: the template's own is then not rendered for nothing. */
export function sourceOf(template: UsableTemplate, ownSubject: boolean): TemplateSource {
  return {
    key: `${versionKey(template)}${partialsKey(template.partials)}${ownSubject ? '' : ' without subject'}`,
    subject: ownSubject ? template.subject : null,
    html: template.html,
    text: template.text,
    variables: template.variables,
    partials: template.partials,
    ...(template.is_strict && { onMissing: 'fail' }),
  }
}

function keyOf(reference: string, version: number | null): string {
  return `${version ?? 'latest'} ${reference}`
}

function versionKey({ id, version }: { readonly id: string; readonly version: number }): string {
  return `${id}@${version}`
}

/** Short, as it travels with every message; the names count too, as a template may be renamed. */
function partialsKey(partials: readonly FoundPartial[]): string {
  if (partials.length === 0) return ''
  const versions = partials.map((partial) => [partial.name, versionKey(partial)])
  return ` ${hash('sha256', JSON.stringify(versions), 'base64url')}`
}
