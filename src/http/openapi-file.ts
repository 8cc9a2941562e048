import { type Context, Hono } from 'hono'
import packageFile from '../../package.json' with { type: 'json' }
import { entityTag, isFresh } from './entity-tag.ts'
import { buildDocument } from './openapi/document.ts'
import { apiRoutes } from './openapi/routes.ts'

/** The document of this app as it is served, and as the copy in the repository has it. */
export function openApiText(app: Pick<Hono, 'routes'>): string {
  return `${JSON.stringify(buildDocument(apiRoutes(app), packageFile.version), undefined, 2)}\n`
}

/** `GET /openapi.json`, made of all routes of `app` when it is first asked for. */
export function openApiRoutes(app: Pick<Hono, 'routes'>): Hono {
  const routes = new Hono()
  let made: { readonly text: string; readonly tag: string } | undefined
  routes.get('/openapi.json', (c: Context) => {
    if (made === undefined) {
      const text = openApiText(app)
      made = { text, tag: entityTag(text) }
    }
    c.header('ETag', made.tag)
    c.header('Cache-Control', 'no-cache')
    if (isFresh(c, made.tag)) return c.body(null, 304)
    c.header('Content-Type', 'application/json; charset=utf-8')
    return c.body(made.text)
  })
  return routes
}
