import { html } from 'hono/html'
import type { StoredTemplate, TemplateSummary } from '../../templates/templates.ts'
import type { TemplatePreviewAnswer } from '../openapi/template-answers.ts'
import { facts, moment, pageLinks, table, text } from './elements.ts'
import { formToken, type Html, mayRead, type Page } from './frame.ts'
import type { Session } from './session.ts'

const PATH = '/dashboard/templates'

export function templateListPage(
  templates: readonly TemplateSummary[],
  links: { readonly newest: string | undefined; readonly older: string | undefined },
): Page {
  return {
    title: 'Templates',
    section: 'templates',
    body: html`${table({
      caption: 'The latest made first',
      empty: 'There are no templates. Make one with POST /templates.',
      rows: templates,
      columns: [
        { name: 'Name', cell: (each) => html`<a href="${PATH}/${each.id}"><bdi>${each.name}</bdi></a>` },
        { name: 'Alias', cell: (each) => text(each.alias) },
        { name: 'Published', kind: 'exact', cell: (each) => moment(each.last_published_at) ?? 'never' },
        { name: 'Draft', cell: (each) => (each.has_draft ? 'yes' : 'no') },
        { name: 'Changed', kind: 'exact', cell: (each) => moment(each.updated_at) },
      ],
    })}
    ${pageLinks(links)}`,
  }
}

/** A preview that was asked for: the data, and what came of it or why nothing did. */
export type Trial = { readonly data: string } & (
  | { readonly answer: TemplatePreviewAnswer; readonly fault?: undefined }
  | { readonly fault: string; readonly answer?: undefined }
)

type TemplateView = {
  readonly template: StoredTemplate
  readonly versions: readonly TemplateSummary[]
  readonly trial: Trial | undefined
  readonly session: Session
}

export function templatePage(view: TemplateView): Page {
  const { template, session } = view
  return {
    title: `Template ${template.name}`,
    section: 'templates',
    body: html`
      ${
        mayRead(session)
          ? html`${source(view)}${preview(view)}`
          : html`<p class="card soft">What templates hold is shown to keys of scope <code>full</code>; this one has
              <code>${session.caller.scope}</code>.</p>`
      }
      ${versionTable(view)}`,
  }
}

function source({ template }: TemplateView): Html {
  const { subject, html: markup, text: plain } = template
  return html`<section class="card" aria-labelledby="source">
    <h2 id="source">Version ${template.version}, ${template.published_at === null ? 'the draft' : 'published'}</h2>
    ${facts([
      ['Alias', template.alias],
      ['From', template.sender],
      ['Reply to', template.reply_to?.join(', ') ?? null],
      ['Uses', template.uses.join(', ')],
      ['Strict', template.is_strict ? 'yes: a message that lacks a variable is a dead letter' : null],
      ['Variables', template.variables.map(({ key, type }) => `${key} (${type})`).join(', ')],
      ['Subject', subject],
    ])}
    ${markup !== null && html`<details><summary>HTML source</summary><pre tabindex="0">${markup}</pre></details>`}
    ${plain !== null && html`<details><summary>Text source</summary><pre tabindex="0">${plain}</pre></details>`}
  </section>`
}

function preview({ template, trial, session }: TemplateView): Html {
  return html`<section class="card" aria-labelledby="preview">
    <h2 id="preview">Try it</h2>
    <form method="post" action="${PATH}/${template.id}/preview#preview">${formToken(session)}
      <input type="hidden" name="version" value="${template.version}">
      <label for="data">Variables, as JSON</label>
      <textarea id="data" name="data" rows="6" spellcheck="false">${trial?.data ?? example(template)}</textarea>
      <div class="actions"><button class="primary">Preview</button></div>
    </form>
    ${trial?.fault !== undefined && html`<p class="notice failed" role="alert">${trial.fault}</p>`}
    ${trial?.answer !== undefined && rendered(trial.answer)}
  </section>`
}

/** A frame of its own source has the policy of this page, which lets styles pass (see PREVIEW_POLICY). */
function rendered({ subject, html: markup, text: plain, from, missing }: TemplatePreviewAnswer): Html {
  return html`
    ${missing.length > 0 && html`<p class="notice failed" role="status"><strong>Missing:</strong> ${missing.join(', ')}</p>`}
    ${facts([
      ['From', from],
      ['Subject', subject],
    ])}
    ${markup !== null && html`<h3>HTML</h3><iframe sandbox srcdoc="${markup}" title="The rendered HTML, which loads and runs nothing"></iframe>`}
    ${plain !== null && html`<h3>Text</h3><pre dir="auto" tabindex="0">${plain}</pre>`}`
}

function example({ variables }: StoredTemplate): string {
  const data = variables.map(({ key, type, fallback_value: fallback }) => [
    key,
    fallback ?? (type === 'number' ? 1 : ''),
  ])
  return JSON.stringify(Object.fromEntries(data), null, 2)
}

function versionTable({ template, versions, session }: TemplateView): Html {
  const latest = versions.find(({ published_at }) => published_at !== null)?.version
  const link = (version: number) => `${PATH}/${template.id}?version=${version}`
  return table({
    caption: 'Versions',
    empty: 'It has no version.',
    rows: versions,
    columns: [
      {
        name: 'Version',
        cell: (each) =>
          html`<a href="${link(each.version)}"${each.version === template.version ? html` aria-current="true"` : ''}>${each.version}</a>`,
      },
      { name: 'Published', kind: 'exact', cell: (each) => moment(each.published_at) ?? 'draft' },
      { name: 'In use', cell: (each) => (each.version === latest ? 'yes' : 'no') },
      ...(mayRead(session)
        ? [
            {
              name: 'Change',
              cell: (each: TemplateSummary) => change(each, each.version === latest, session),
            },
          ]
        : []),
    ],
  })
}

function change(
  { id, version, published_at: publishedAt }: TemplateSummary,
  isInUse: boolean,
  session: Session,
): Html | null {
  if (isInUse) return null
  const [verb, label, words] =
    publishedAt === null
      ? (['publish', 'Publish', 'Mail that is processed from now on uses it.'] as const)
      : (['rollback', 'Roll back', 'What it holds is published again, as a new version.'] as const)
  return html`<details class="sure"><summary aria-label="${label}: version ${version}">${label}</summary>
    <form method="post" action="${PATH}/${id}/${verb}">${formToken(session)}
      <input type="hidden" name="version" value="${version}">
      <p>${words}</p><button aria-label="${label} version ${version}">${label}</button>
    </form>
  </details>`
}
