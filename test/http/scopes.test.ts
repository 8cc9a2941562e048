import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import type { Hono } from 'hono'
import { type Database, openPool } from '../../src/db/pool.ts'
import { createApp } from '../../src/http/app.ts'
import { scopesOf } from '../../src/http/auth.ts'
import type { AppDeps } from '../../src/http/deps.ts'
import { Keyring } from '../../src/keys/keyring.ts'
import { createKey, KEY_SCOPES, type KeyScope } from '../../src/keys/keys.ts'
import { createLog } from '../../src/log.ts'
import { WEBHOOK_KINDS } from '../../src/webhook-kinds.ts'
import { createTestDatabase } from '../support/database.ts'

/** Routes for everybody: a route is added here on purpose, or asks for a scope. */
const PUBLIC = new Set([
  'GET /healthz',
  'GET /readyz',
  // Numbers, and the names of streams and providers.
  'GET /metrics',
  'GET /openapi.json',
  // The page to read it, and what that loads.
  ...['', '/start.js', '/swagger-ui.css', '/swagger-ui-bundle.js'].map((file) => `GET /docs${file}`),
  // Their proof is the provider's signature.
  'POST /webhooks/dsn',
  ...WEBHOOK_KINDS.map((kind) => `POST /webhooks/${kind}/:endpoint`),
  // The signed token is the proof.
  ...['GET', 'POST', 'OPTIONS'].map((method) => `${method} /u/:token`),
  // Found by nobody.
  'POST /webhooks/:kind/:endpoint',
])

/** For whoever signs in with a key: each asks for a session, and says so in a page. */
const PAGES = /^\w+ \/(?:logout|dashboard.*)?$/
/** What the page to sign in is made of. */
const OPEN_PAGES = /^\w+ (?:\/login|\/dashboard\/assets\/.*)$/

type Route = { readonly name: string; readonly method: string; readonly path: string }

let app: Hono
let db: Database

before(async (t) => {
  const database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  const log = createLog('silent')
  const pool = openPool({ url: database.url, maxConnections: 4, role: undefined, log })
  database.beforeDrop(pool.close)
  db = pool.db
  // Whoever gets past the scopes finds little behind them: what is tested is the door.
  const deps: Partial<AppDeps> = { db, log, keyring: new Keyring(db, undefined), maxBodyBytes: 10_000 }
  app = createApp(deps as AppDeps)
})

function pagesOf(): Route[] {
  return app.routes
    .filter(({ method }) => method !== 'ALL')
    .map(({ method, path }) => ({ name: `${method} ${path}`, method, path: filled(path) }))
    .filter(({ name }) => PAGES.test(name) && !OPEN_PAGES.test(name))
}

function filled(path: string): string {
  return path.replaceAll(/:\w+(\{[^}]*\})?/g, 'x')
}

/** Every route of the API with the scopes that it asks for; undefined when it asks for none. */
function routesOf(): Map<Route, readonly KeyScope[] | undefined> {
  const routes = new Map<string, { route: Route; scopes: readonly KeyScope[] | undefined }>()
  for (const { method, path, handler } of app.routes) {
    if (method === 'ALL') continue
    const name = `${method} ${path}`
    if (PAGES.test(name) || OPEN_PAGES.test(name)) continue
    const scopes = scopesOf(handler) ?? routes.get(name)?.scopes
    routes.set(name, { route: { name, method, path: filled(path) }, scopes })
  }
  return new Map([...routes.values()].map(({ route, scopes }) => [route, scopes]))
}

let asked = 0

async function ask({ method, path }: Route, key: string | undefined) {
  asked += 1
  const options = { method, ...(key !== undefined && { headers: { Authorization: `Bearer ${key}` } }) }
  // From an address of its own: wrong keys are counted by address, and there are many routes.
  const from = { incoming: { socket: { remoteAddress: `192.0.2.${asked}` } } }
  const response = await app.request(path, options, from)
  const isJson = response.headers.get('Content-Type')?.startsWith('application/json')
  const body = (isJson ? await response.json() : {}) as { name?: string }
  return { status: response.status, name: body.name }
}

test('every page but those to sign in is shown to nobody without a session, whatever key they bring', async () => {
  const { key } = await createKey(db, { name: 'full', scope: 'full' })
  const pages = pagesOf()
  assert.ok(pages.length > 5)
  for (const { name, method, path } of pages) {
    for (const headers of [{}, { Authorization: `Bearer ${key}` }, { Cookie: `sluice_session=${key}` }]) {
      const response = await app.request(path, { method, headers })
      const answer = [response.status, response.headers.get('Location')?.replace(/\?.*/, '')]
      assert.deepEqual(answer, method === 'GET' ? [303, '/login'] : [403, undefined], name)
    }
  }
})

test('every route but the public ones says which scopes it is for', () => {
  const routes = [...routesOf()]
  assert.ok(routes.length > 15)
  const open = routes.filter(([, scopes]) => scopes === undefined).map(([{ name }]) => name)
  assert.deepEqual(new Set(open), PUBLIC)
})

test('every route is closed without a key', async () => {
  for (const [route] of routesOf()) {
    if (PUBLIC.has(route.name)) continue
    assert.deepEqual(await ask(route, undefined), { status: 401, name: 'missing_api_key' }, route.name)
    assert.deepEqual(await ask(route, 'wrong'), { status: 401, name: 'invalid_api_key' }, route.name)
  }
})

test('every route is closed to every other scope, and open to its own and to full', async () => {
  const keys = new Map<KeyScope, string>()
  for (const scope of KEY_SCOPES) keys.set(scope, (await createKey(db, { name: scope, scope })).key)
  for (const [route, scopes = []] of routesOf()) {
    if (PUBLIC.has(route.name)) continue
    for (const [scope, key] of keys) {
      const { status, name } = await ask(route, key)
      const isOpen = scope === 'full' || scopes.includes(scope)
      const answer = `${route.name} answers a ${scope} key with ${status} ${name}`
      if (isOpen) assert.notEqual(name, 'restricted_api_key', answer)
      else assert.deepEqual([status, name], [401, 'restricted_api_key'], answer)
    }
  }
})
