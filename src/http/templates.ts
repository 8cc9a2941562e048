import { type Context, Hono } from 'hono'
import { ApiError } from '../errors.ts'
import { textFault } from '../message/message-text.ts'
import { publishTemplate, rollBackTemplate } from '../templates/template-publish.ts'
import {
  changeTemplate,
  createTemplate,
  duplicateTemplate,
  removeTemplate,
} from '../templates/template-writes.ts'
import { findTemplate, listTemplates, listVersions, type StoredTemplate } from '../templates/templates.ts'
import { type AuthEnv, requireScope } from './auth.ts'
import { parseBody, readJson } from './body.ts'
import type { AppDeps } from './deps.ts'
import {
  readChanges,
  readDraft,
  readPage,
  readPreview,
  readVersion,
  versionSchema,
} from './template-input.ts'
import { previewTemplate } from './template-preview.ts'
import { presentListed, presentTemplate, presentVersion } from './template-view.ts'

/**
 * Templates in Resend's shape, each by its id, alias or name, and what Resend lacks: versions, preview and roll back.
 * Messages use them once they are published.
 */
export function templateRoutes(deps: AppDeps): Hono<AuthEnv> {
  const routes = new Hono<AuthEnv>()
  const { db } = deps

  routes.post('/', requireScope(), async (c) => {
    const { identity, content } = readDraft(await readJson(c))
    await refuseUnreadable(deps, content)
    return c.json(presentVersion(await createTemplate(db, identity, content)))
  })

  routes.get('/', requireScope('read'), async (c) => {
    const asked = readPage(c)
    const page = await listTemplates(db, asked)
    if (page === undefined) {
      const field = asked.after === null ? 'before' : 'after'
      throw new ApiError(
        'validation_error',
        `Invalid \`${field}\`: use the \`id\` of a template in this list.`,
      )
    }
    return c.json({ object: 'list', has_more: page.hasMore, data: page.templates.map(presentListed) })
  })

  routes.get('/:reference', requireScope('read'), async (c) => {
    return c.json(presentTemplate(found(await findTemplate(db, referenceOf(c), readVersion(c)))))
  })

  routes.patch('/:reference', requireScope(), async (c) => {
    const changes = readChanges(await readJson(c))
    await refuseUnreadable(deps, changes)
    return c.json(presentVersion(found(await changeTemplate(db, referenceOf(c), changes))))
  })

  routes.delete('/:reference', requireScope(), async (c) => {
    const id = found(await removeTemplate(db, referenceOf(c)))
    deps.log.info({ template: id }, 'template removed')
    return c.json({ object: 'template', id, deleted: true })
  })

  routes.post('/:reference/publish', requireScope(), async (c) => {
    return c.json(published(deps, found(await publishTemplate(deps, referenceOf(c)))))
  })

  routes.post('/:reference/duplicate', requireScope(), async (c) => {
    return c.json(presentVersion(found(await duplicateTemplate(db, referenceOf(c)))))
  })

  routes.get('/:reference/versions', requireScope('read'), async (c) => {
    const versions = await listVersions(db, referenceOf(c))
    if (versions.length === 0) throw notFound()
    return c.json({ object: 'list', has_more: false, data: versions.map(presentVersion) })
  })

  routes.post('/:reference/rollback', requireScope(), async (c) => {
    const { version } = parseBody(versionSchema, await readJson(c))
    return c.json(published(deps, found(await rollBackTemplate(deps, referenceOf(c), version))))
  })

  routes.post('/:reference/preview', requireScope('read'), async (c) => {
    const { version, variables } = readPreview(await readJson(c))
    const template = found(await findTemplate(db, referenceOf(c), version))
    return c.json(await previewTemplate(deps, template, variables))
  })

  return routes
}

/** What the parser refuses is not stored; what it uses need not be there before it is published. */
async function refuseUnreadable(
  deps: AppDeps,
  parts: { readonly subject?: string | null; readonly html?: string | null; readonly text?: string | null },
): Promise<void> {
  const { subject = null, html = null, text = null } = parts
  const fault = await deps.checkTemplate({ subject, html, text, partials: 'unchecked' })
  if (fault !== undefined) throw new ApiError('validation_error', fault)
}

function published(deps: AppDeps, template: StoredTemplate): object {
  deps.log.info({ template: template.name, version: template.version }, 'template published')
  return presentVersion(template)
}

/** Postgres takes neither NUL nor half a surrogate pair for text: no template has such a name. */
function referenceOf(c: Context): string {
  const reference = c.req.param('reference') ?? ''
  if (textFault(reference) !== undefined) throw notFound()
  return reference
}

function found<T>(value: T | undefined): T {
  if (value === undefined) throw notFound()
  return value
}

function notFound(): ApiError {
  return new ApiError('not_found', 'Template not found.')
}
