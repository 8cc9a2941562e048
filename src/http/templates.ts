import { type Context, Hono } from 'hono'
import { z } from 'zod'
import { ApiError } from '../errors.ts'
import { textFault } from '../message-text.ts'
import * as store from '../templates.ts'
import { type AuthEnv, requireScope } from './auth.ts'
import { parseBody, readJson } from './body.ts'
import type { AppDeps } from './deps.ts'

const storable = z
  .string()
  .refine((text) => !text.includes('\0') && text.isWellFormed(), 'must be well-formed text without NUL')

const draftSchema = z.strictObject({
  name: storable.min(1).max(200),
  subject: storable.max(998).optional(),
  html: storable.optional(),
  text: storable.optional(),
})

/** Templates are written with `POST /templates`, and used by messages once they are published. */
export function templateRoutes(deps: AppDeps): Hono<AuthEnv> {
  const routes = new Hono<AuthEnv>()

  routes.post('/', requireScope(), async (c) => {
    const draft = parseBody(draftSchema, await readJson(c))
    if (draft.html === undefined && draft.text === undefined) {
      throw new ApiError('missing_required_field', 'Missing `html` or `text` field: a template needs a body.')
    }
    const parts = { subject: draft.subject ?? null, html: draft.html ?? null, text: draft.text ?? null }
    const fault = await deps.checkTemplate(parts)
    if (fault !== undefined) throw new ApiError('validation_error', fault)
    return c.json(present(await store.saveDraft(deps.db, { name: draft.name, ...parts })))
  })

  routes.post('/:reference/publish', requireScope(), async (c) => {
    const published = await store.publishLatest(deps.db, referenceOf(c))
    if (published === undefined) throw notFound()
    deps.log.info({ template: published.name, version: published.version }, 'template published')
    return c.json(present(published))
  })

  routes.get('/', requireScope('read'), async (c) => {
    const templates = await store.listTemplates(deps.db)
    return c.json({ object: 'list', has_more: false, data: templates.map(present) })
  })

  routes.get('/:reference', requireScope('read'), async (c) => {
    const [latest, ...older] = await store.listVersions(deps.db, referenceOf(c))
    if (latest === undefined) throw notFound()
    return c.json({ ...present(latest), ...partsOf(latest), versions: [latest, ...older].map(present) })
  })

  return routes
}

/** Postgres takes neither NUL nor half a surrogate pair for text: no template has such a name. */
function referenceOf(c: Context): string {
  const reference = c.req.param('reference') ?? ''
  if (textFault(reference) !== undefined) throw notFound()
  return reference
}

function notFound(): ApiError {
  return new ApiError('not_found', 'Template not found.')
}

function present(template: store.StoredTemplate) {
  return {
    object: 'template',
    id: template.id,
    name: template.name,
    version: template.version,
    status: template.published_at === null ? 'draft' : 'published',
    created_at: template.created_at.toISOString(),
    published_at: template.published_at?.toISOString() ?? null,
  }
}

function partsOf({ subject, html, text }: store.StoredTemplate) {
  return { subject, html, text }
}
