import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { Hono, type MiddlewareHandler } from 'hono'
import { type Asset, assetOf, serveAsset } from './asset.ts'

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

export function docsRoutes(): Hono {
  const routes = new Hono()
  routes.use(withPageHeaders)
  routes.get('/', (c) => serveAsset(c, assetOf('text/html', Buffer.from(PAGE))))
  routes.get('/start.js', (c) => serveAsset(c, assetOf('text/javascript', Buffer.from(START))))
  for (const [file, type] of [
    ['swagger-ui.css', 'text/css'],
    ['swagger-ui-bundle.js', 'text/javascript'],
  ] as const) {
    // Kept from the first time on: most processes never show the page.
    let asset: Promise<Asset> | undefined
    routes.get(`/${file}`, async (c) => {
      asset ??= readAsset(file, type)
      return serveAsset(c, await asset)
    })
  }
  return routes
}

async function readAsset(file: string, type: string): Promise<Asset> {
  return assetOf(type, await readFile(fileURLToPath(import.meta.resolve(`swagger-ui-dist/${file}`))))
}

const withPageHeaders: MiddlewareHandler = async function withPageHeaders(c, next) {
  c.header('Content-Security-Policy', POLICY)
  c.header('X-Content-Type-Options', 'nosniff')
  c.header('Referrer-Policy', 'no-referrer')
  c.header('Cross-Origin-Opener-Policy', 'same-origin')
  await next()
}
