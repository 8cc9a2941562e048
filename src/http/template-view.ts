import type { DeclaredVariable } from '../templates/template-content.ts'
import type { StoredTemplate, TemplateSummary } from '../templates/templates.ts'
import type {
  ListedTemplateAnswer,
  TemplateAnswer,
  TemplateVariableAnswer,
  TemplateVersionAnswer,
} from './openapi/template-answers.ts'

/** Resend's fields, then ours; the content is that of the draft when there is one, or of the version asked for. */
export function presentTemplate(template: StoredTemplate): TemplateAnswer {
  return {
    ...presentListed(template),
    subject: template.subject,
    html: template.html,
    text: template.text,
    from: template.sender,
    reply_to: template.reply_to,
    variables:
      template.variables.length === 0
        ? null
        : template.variables.map((variable) => presentVariable(template, variable)),
    has_unpublished_versions: template.has_draft,
    current_version_id: template.version_id,
    version: template.version,
    strict: template.is_strict,
    uses: template.uses,
  }
}

export function presentListed(template: TemplateSummary): ListedTemplateAnswer {
  return {
    object: 'template',
    id: template.id,
    name: template.name,
    alias: template.alias,
    status: template.last_published_at === null ? 'draft' : 'published',
    created_at: template.created_at.toISOString(),
    updated_at: template.updated_at.toISOString(),
    published_at: template.last_published_at?.toISOString() ?? null,
  }
}

/** One version: what an answer to a write says, and a line of the list of versions. */
export function presentVersion(template: TemplateSummary): TemplateVersionAnswer {
  return {
    object: 'template',
    id: template.id,
    name: template.name,
    alias: template.alias,
    version: template.version,
    version_id: template.version_id,
    status: template.published_at === null ? 'draft' : 'published',
    published_at: template.published_at?.toISOString() ?? null,
  }
}

/** Resend dates each variable; here they are as old as their version. */
function presentVariable(template: StoredTemplate, variable: DeclaredVariable): TemplateVariableAnswer {
  return {
    key: variable.key,
    type: variable.type,
    fallback_value: variable.fallback_value ?? null,
    created_at: template.created_at.toISOString(),
    updated_at: template.updated_at.toISOString(),
  }
}
