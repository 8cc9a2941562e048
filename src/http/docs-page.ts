import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { type Context, Hono, type MiddlewareHandler } from 'hono'
import { entityTag, isFresh } from './entity-tag.ts'

/**
 * `GET /docs`: the document for reading and trying, by Swagger UI, whose files come from its package. Nothing is asked
 * of any other host, so it works offline; a key that is typed in stays in the page and is gone with it.
 */

const PAGE = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sluice: the API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="api"></div>
<noscript>The document itself is at <a href="/openapi.json">/openapi.json</a>.</noscript>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
`

const START = `window.SwaggerUIBundle({
  url: '/openapi.json',
  dom_id: '#api',
  deepLinking: true,
  docExpansion: 'list',
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  persistAuthorization: false,
  queryConfigEnabled: false,
  validatorUrl: null,
})
`

/** Swagger UI sets styles through the DOM, which a policy lets pass, and draws its icons as data. */
const POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' data:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ')

type Asset = { readonly bytes: Uint8Array<ArrayBuffer>; readonly tag: string; readonly type: string }

export function docsRoutes(): Hono {
  const routes = new Hono()
  routes.use(withPageHeaders)
  routes.get('/', (c) => serve(c, made('text/html', Buffer.from(PAGE))))
  routes.get('/start.js', (c) => serve(c, made('text/javascript', Buffer.from(START))))
  for (const [file, type] of [
    ['swagger-ui.css', 'text/css'],
    ['swagger-ui-bundle.js', 'text/javascript'],
  ] as const) {
    // Kept from the first time on: most processes never show the page.
    let asset: Promise<Asset> | undefined
    routes.get(`/${file}`, async (c) => {
      asset ??= readAsset(file, type)
      return serve(c, await asset)
    })
  }
  return routes
}

async function readAsset(file: string, type: string): Promise<Asset> {
  return made(type, await readFile(fileURLToPath(import.meta.resolve(`swagger-ui-dist/${file}`))))
}

function made(type: string, bytes: Uint8Array): Asset {
  return { bytes: Uint8Array.from(bytes), tag: entityTag(bytes), type: `${type}; charset=utf-8` }
}

function serve(c: Context, { bytes, tag, type }: Asset): Response {
  c.header('ETag', tag)
  c.header('Cache-Control', 'no-cache')
  if (isFresh(c, tag)) return c.body(null, 304)
  c.header('Content-Type', type)
  return c.body(bytes)
}

const withPageHeaders: MiddlewareHandler = async function withPageHeaders(c, next) {
  c.header('Content-Security-Policy', POLICY)
  c.header('X-Content-Type-Options', 'nosniff')
  c.header('Referrer-Policy', 'no-referrer')
  c.header('Cross-Origin-Opener-Policy', 'same-origin')
  await next()
}
