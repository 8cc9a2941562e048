import { ApiError } from '../errors.ts'
import { findPartials } from '../templates/template-partials.ts'
import type { StoredTemplate } from '../templates/templates.ts'
import type { AppDeps } from './deps.ts'
import type { TemplatePreviewAnswer } from './openapi/template-answers.ts'

/** What a message with these variables would be, with the names of those that are missing. Nothing is stored or sent. */
export async function previewTemplate(
  deps: AppDeps,
  template: StoredTemplate,
  variables: Readonly<Record<string, unknown>>,
): Promise<TemplatePreviewAnswer> {
  const { id, name, version, subject, html, text, uses } = template
  const partials = await findPartials(deps.db, [{ root: id, uses }])
  if (partials.some((partial) => partial.id === id)) {
    throw new ApiError('validation_error', `The template \`${name}\` would use itself.`)
  }
  const source = { subject, html, text, variables: template.variables, partials }
  const result = await deps.previewTemplate(source, variables)
  if (!result.ok) throw new ApiError('validation_error', result.reason)
  return {
    object: 'template_preview',
    id,
    name,
    version,
    subject: result.rendered.subject ?? null,
    html: result.rendered.html ?? null,
    text: result.rendered.text ?? null,
    from: template.sender,
    reply_to: template.reply_to,
    missing: [...(result.missing ?? [])],
  }
}
