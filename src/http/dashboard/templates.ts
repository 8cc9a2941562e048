import type { Hono } from 'hono'
import { ApiError } from '../../errors.ts'
import { publishTemplate, rollBackTemplate } from '../../templates/template-publish.ts'
import { findTemplate, listTemplates, listVersions, type StoredTemplate } from '../../templates/templates.ts'
import type { AppDeps } from '../deps.ts'
import type { TemplatePreviewAnswer } from '../openapi/template-answers.ts'
import { readPreview } from '../template-input.ts'
import { previewTemplate } from '../template-preview.ts'
import { act } from './action.ts'
import { linkTo } from './elements.ts'
import { type DashboardEnv, mayRead, type PageContext, show } from './frame.ts'
import { PREVIEW_POLICY } from './guard.ts'
import { numberIn, parametersOf } from './input.ts'
import type { Notice } from './notice.ts'
import { type Trial, templateListPage, templatePage } from './template-pages.ts'

const PATH = '/dashboard/templates'
const PAGE_SIZE = 50
const UUID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i
const VERSION = { label: 'Version', min: 1, max: 2 ** 31 - 1, isWhole: true } as const

/** `/dashboard/templates`: what they hold, tried with data, published and rolled back by keys that may do everything. */
export function addTemplates(routes: Hono<DashboardEnv>, deps: AppDeps): void {
  routes.get(PATH, async (c) => {
    const given = parametersOf(c.req.url).get('after') ?? ''
    const after = UUID.test(given) ? given : null
    const options = { limit: PAGE_SIZE, before: null }
    const page =
      (await listTemplates(deps.db, { ...options, after })) ??
      (await listTemplates(deps.db, { ...options, after: null }))
    const templates = page?.templates ?? []
    const older = page?.hasMore ? linkTo(PATH, { after: templates.at(-1)?.id }) : undefined
    return show(c, templateListPage(templates, { newest: after === null ? undefined : PATH, older }))
  })
  routes.get(`${PATH}/:id`, async (c) => {
    const given = parametersOf(c.req.url)
    const version = given.has('version') ? numberIn(given, 'version', VERSION) : null
    return showTemplate(deps, c, version)
  })
  routes.post(`${PATH}/:id/preview`, (c) => preview(deps, c))
  routes.post(`${PATH}/:id/publish`, (c) =>
    write(deps, c, async (id) => {
      const published = found(await publishTemplate(deps, id))
      return { tone: 'done', text: `Version ${published.version} is published.` }
    }),
  )
  routes.post(`${PATH}/:id/rollback`, (c) =>
    write(deps, c, async (id) => {
      const wanted = numberIn(c.get('form'), 'version', VERSION)
      const { version } = found(await rollBackTemplate(deps, id, wanted))
      return version === wanted
        ? { tone: 'nothing', text: `Version ${version} is in use already.` }
        : { tone: 'done', text: `What version ${wanted} holds is published as version ${version}.` }
    }),
  )
}

async function showTemplate(
  deps: AppDeps,
  c: PageContext,
  version: number | null,
  trial?: Trial,
): Promise<Response> {
  const id = idOf(c)
  const template = found(await findTemplate(deps.db, id, version))
  const versions = await listVersions(deps.db, id)
  const status = trial?.answer === undefined && trial !== undefined ? 422 : 200
  return show(c, { ...templatePage({ template, versions, trial, session: c.get('session') }), status })
}

/** Changes nothing, so it answers with the page itself. */
async function preview(deps: AppDeps, c: PageContext): Promise<Response> {
  requireReader(c)
  const form = c.get('form')
  const version = numberIn(form, 'version', VERSION)
  const data = form.get('data') ?? ''
  const template = found(await findTemplate(deps.db, idOf(c), version))
  c.header('Content-Security-Policy', PREVIEW_POLICY)
  return showTemplate(deps, c, version, { data, ...(await tried(deps, template, data)) })
}

async function tried(
  deps: AppDeps,
  template: StoredTemplate,
  data: string,
): Promise<{ answer: TemplatePreviewAnswer } | { fault: string }> {
  try {
    const { variables } = readPreview({ variables: parsed(data) })
    return { answer: await previewTemplate(deps, template, variables) }
  } catch (error) {
    if (!(error instanceof ApiError) || error.status >= 500) throw error
    return { fault: error.message }
  }
}

function parsed(data: string): unknown {
  if (data.trim() === '') return {}
  try {
    return JSON.parse(data)
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error
    throw new ApiError(
      'validation_error',
      'The data is not valid JSON; use an object such as {"name": "Ann"}.',
    )
  }
}

function write(deps: AppDeps, c: PageContext, work: (id: string) => Promise<Notice>): Promise<Response> {
  requireReader(c)
  const id = idOf(c)
  return act(c, `${PATH}/${id}`, async () => {
    const notice = await work(id)
    deps.log.info({ keyId: c.get('caller').keyId, template: id }, 'template published from the dashboard')
    return notice
  })
}

function requireReader(c: PageContext): void {
  if (mayRead(c.get('session'))) return
  const words = 'Templates are tried and published by keys of scope full; this one has operate.'
  throw new ApiError('restricted_api_key', words, { status: 403 })
}

function idOf(c: PageContext): string {
  const id = c.req.param('id') ?? ''
  if (!UUID.test(id)) throw notFound()
  return id
}

function found<T>(value: T | undefined): T {
  if (value === undefined) throw notFound()
  return value
}

function notFound(): ApiError {
  return new ApiError('not_found', 'There is no such template, or no such version of it.')
}
