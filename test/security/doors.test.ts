/** Every route of the app, as it stands in the app, tried by those who may not: with odd keys, methods and paths. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type IncomingHttpHeaders, request } from 'node:http'
import { text } from 'node:stream/consumers'
import { before, describe, test } from 'node:test'
import type { Hono } from 'hono'
import { METHOD_NAME_ALL } from 'hono/router'
import type { Catalog } from '../../src/catalog.ts'
import { type Database, openPool } from '../../src/db/pool.ts'
import { createApp, createServiceApp } from '../../src/http/app.ts'
import { scopesOf } from '../../src/http/auth.ts'
import type { AppDeps } from '../../src/http/deps.ts'
import { SECURITY_HEADERS } from '../../src/http/security-headers.ts'
import { listen } from '../../src/http/server.ts'
import { Keyring } from '../../src/keys/keyring.ts'
import { createKey } from '../../src/keys/keys.ts'
import { createLog } from '../../src/log.ts'
import { createTestDatabase } from '../support/database.ts'

type Answer = { readonly status: number; readonly headers: IncomingHttpHeaders; readonly body: string }
type Asked = {
  readonly method?: string
  readonly path: string
  readonly headers?: Readonly<Record<string, string>>
}

let db: Database
let app: Hono
let address: URL
let metricsAddress: URL
let sendKey: string

before(async (t) => {
  const database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  const log = createLog('silent')
  const pool = openPool({ url: database.url, maxConnections: 4, role: undefined, log })
  database.beforeDrop(pool.close)
  db = pool.db
  const metrics = async () => ({ contentType: 'text/plain', text: 'numbers' })
  // Nothing stands behind the doors: who gets through one meets an error, and that shows.
  const deps: Partial<AppDeps> = {
    db,
    log,
    keyring: new Keyring(db, undefined),
    maxBodyBytes: 10_000,
    catalog: { current: { streams: new Map() } as unknown as Catalog },
    readUnsubscribeToken: () => undefined,
    metrics,
  }
  app = createApp(deps as AppDeps)
  const service = await listen(app, { host: '127.0.0.1', port: 0 })
  const metricsServer = await listen(createServiceApp({ db, log, metrics }), {
    host: '127.0.0.1',
    port: 0,
  })
  const now = AbortSignal.abort()
  database.beforeDrop(() => Promise.all([service.close(now), metricsServer.close(now)]))
  address = new URL(service.url)
  metricsAddress = new URL(metricsServer.url)
  sendKey = (await createKey(db, { name: 'send', scope: 'send' })).key
})

/** The path goes out as it is: fetch would tidy it up first. */
async function ask(
  { method = 'GET', path, headers = {} }: Asked,
  { hostname, port } = address,
): Promise<Answer> {
  const sent = request({ hostname, port, method, path, headers, agent: false })
  sent.end(['POST', 'PUT', 'PATCH'].includes(method) ? '{}' : undefined)
  const [response] = await once(sent, 'response')
  return { status: response.statusCode, headers: response.headers, body: await text(response) }
}

/** What is the same when nothing may be learned from an answer. */
function told({ status, headers: { date: _, ...headers }, body }: Answer) {
  return { status, headers, body }
}

type Route = { readonly method: string; readonly path: string }

/** The routes that ask for a scope, or for a session. */
function closedRoutes(): Route[] {
  const routes = new Map<string, Route>()
  for (const { method, path, handler } of app.routes) {
    const isPage = /^\/(?:logout|dashboard(?!\/assets).*)?$/.test(path)
    if (method === METHOD_NAME_ALL || (scopesOf(handler) === undefined && !isPage)) continue
    routes.set(`${method} ${path}`, { method, path: path.replaceAll(/:\w+(\{[^}]*\})?/g, 'x') })
  }
  return [...routes.values()]
}

/** Ways to write a path so that a proxy, a middleware and a router might read it differently. */
function spellingsOf(path: string): string[] {
  const [, first = '', rest = ''] = /^\/([^/]*)(.*)$/.exec(path) ?? []
  const hex = [...first].map((char) => `%${char.charCodeAt(0).toString(16)}`).join('')
  return [
    ...[
      `/${path}`,
      `//${path}`,
      `${path}/`,
      `${path}//`,
      `/.${path}`,
      `/x/..${path}`,
      `/healthz/..${path}`,
      `/docs/../${first}${rest}`,
    ],
    ...[
      `/%2e${path}`,
      `/healthz/%2e%2e${path}`,
      `/u/x%2f..%2f..${path}`,
      `/%2f${first}${rest}`,
      `/${first}%2f${rest.slice(1)}`,
    ],
    ...[
      `/${hex}${rest}`,
      `/%25${hex.slice(1)}${rest}`,
      `/${first.toUpperCase()}${rest}`,
      `/${first}.${rest}`,
      `/${first}%00${rest}`,
    ],
    ...[
      `/${first};x=1${rest}`,
      `/${first}%20${rest}`,
      `/${first}%3f${rest}`,
      `/\\${first}${rest}`,
      `/${first}\\..${rest}`,
    ],
    ...[
      `http://127.0.0.1${path}`,
      `http://u:p@elsewhere.example${path}`,
      `${path}?x=/healthz`,
      `/${first}%c0%af${rest}`,
      `/${first}%ff${rest}`,
    ],
  ]
}

test('a key that was revoked, has expired, never was or is no key at all is answered alike, and so is none', async () => {
  const { key: revoked, id } = await createKey(db, { name: 'revoked', scope: 'full' })
  const { key: expired, id: old } = await createKey(db, { name: 'expired', scope: 'full' })
  await db.updateTable('mail.api_key').set({ revoked_at: new Date() }).where('id', '=', id).execute()
  await db
    .updateTable('mail.api_key')
    .set({ expires_at: new Date(0) })
    .where('id', '=', old)
    .execute()
  const unknown = revoked.replace(id, 'aaaaaaaaaaaa')
  const wrong = [revoked, expired, unknown, `${sendKey.slice(0, -1)}x`, 'sluice_', 'x', `${sendKey}\u00ff`]
  const seen = new Set<string>()
  for (const key of wrong) {
    const answer = await ask({ path: '/emails', headers: { Authorization: `Bearer ${key}` } })
    assert.equal(answer.status, 401)
    seen.add(JSON.stringify(told(answer)))
    assert.ok(!answer.body.includes(key))
  }
  assert.equal(seen.size, 1)
  const without = []
  for (const { method, path } of closedRoutes().filter(
    ({ path }) => !/^\/(?:$|logout|dashboard)/.test(path),
  )) {
    without.push(JSON.stringify(told(await ask({ method, path }))))
  }
  assert.ok(without.length > 40)
  assert.equal(new Set(without).size, 1)
})

test('a key in a URL, a cookie or another header opens nothing', async () => {
  const { key } = await createKey(db, { name: 'full', scope: 'full' })
  for (const name of ['key', 'api_key', 'apikey', 'access_token', 'token', 'authorization']) {
    assert.equal((await ask({ path: `/emails?${name}=${key}` })).status, 401)
    for (const header of [{ Cookie: `${name}=${key}` }, { [`X-${name}`]: key }]) {
      assert.equal((await ask({ path: '/emails', headers: header })).status, 401, JSON.stringify(header))
    }
  }
  for (const scheme of ['Basic', 'Token', 'bearer:', '']) {
    const headers = { Authorization: `${scheme} ${key}`.trim() }
    assert.equal((await ask({ path: '/emails', headers })).status, 401, scheme)
  }
})

test('no spelling of a path opens what is closed', async () => {
  for (const { method, path } of closedRoutes()) {
    if (method !== 'GET') continue
    const answers = await Promise.all(
      spellingsOf(path).map(async (spelling) => ({ spelling, ...(await ask({ path: spelling })) })),
    )
    for (const { spelling, status, body } of answers) {
      const isSignIn = status === 303 || status === 301
      assert.ok(isSignIn || (status >= 400 && status < 500), `${spelling}: ${status} ${body.slice(0, 200)}`)
    }
  }
})

test('no spelling of a path lets a key do what its scope does not allow', async () => {
  const headers = { Authorization: `Bearer ${sendKey}` }
  for (const path of ['/api-keys', '/dead-letters', '/webhooks', '/emails', '/streams/x/pause']) {
    for (const spelling of spellingsOf(path)) {
      const { status } = await ask({ path: spelling, headers })
      assert.ok(status >= 400 && status < 500, `${spelling}: ${status}`)
    }
  }
})

test('a request that names an odd host or target is refused in our own words', async () => {
  const { key } = await createKey(db, { name: 'odd', scope: 'full' })
  const odd: Asked[] = [
    ...['a b', 'a@b', '[', 'x:99999', 'u:p@127.0.0.1', 'x/../y', '\u00ff', 'x'.repeat(5_000)].map((Host) => ({
      path: '/emails/x',
      headers: { Host },
    })),
    ...[
      'http://u:p@127.0.0.1/emails/x',
      'HTTP://u@x/emails/x',
      'http://[/emails/x',
      '*',
      'emails/x',
      '?x',
    ].map((path) => ({ path })),
  ]
  for (const asked of odd) {
    const headers = { ...asked.headers, Authorization: `Bearer ${key}` }
    const { status, headers: said, body } = await ask({ ...asked, headers })
    assert.ok(status >= 400 && status < 500, `${JSON.stringify(asked)}: ${status} ${body}`)
    for (const name of Object.keys(SECURITY_HEADERS))
      assert.ok(said[name.toLowerCase()], `${asked.path}: ${name}`)
    assert.equal((JSON.parse(body) as { statusCode: number }).statusCode, status)
  }
})

test('no other method opens a route', async () => {
  const methods = ['HEAD', 'OPTIONS', 'TRACE', 'PROPFIND', 'PUT', 'DELETE', 'QUERY', 'M-SEARCH', 'PURGE']
  const paths = new Set(closedRoutes().map(({ path }) => path))
  for (const path of paths) {
    const answers = await Promise.all(
      methods.map(async (method) => ({ method, ...(await ask({ method, path })) })),
    )
    for (const { method, status, headers, body } of answers) {
      assert.ok(status === 303 || (status >= 400 && status < 500), `${method} ${path}: ${status} ${body}`)
      assert.deepEqual(
        Object.keys(headers).filter((name) => name.startsWith('access-control-')),
        [],
      )
    }
  }
})

test('another site’s page is let in nowhere: there is no CORS', async () => {
  const preflight = {
    Origin: 'https://evil.example.com',
    'Access-Control-Request-Method': 'POST',
    'Access-Control-Request-Headers': 'authorization',
  }
  for (const { path, method } of app.routes) {
    if (method === METHOD_NAME_ALL) continue
    for (const each of ['OPTIONS', 'GET']) {
      const { headers } = await ask({
        method: each,
        path: path.replaceAll(/:\w+(\{[^}]*\})?/g, 'x'),
        headers: preflight,
      })
      assert.deepEqual(
        Object.keys(headers).filter((name) => name.startsWith('access-control-')),
        [],
        path,
      )
    }
  }
})

describe('every answer', () => {
  test('has the headers that keep browsers in check, whatever it answers', async () => {
    const paths = new Set(
      app.routes.map(({ path }) => path.replaceAll(/:\w+(\{[^}]*\})?/g, 'x').replace('*', '')),
    )
    const answers = await Promise.all(
      [...paths, '/nowhere', '/emails/x', '/%', `/${'x'.repeat(20_000)}`].map(async (path) => ({
        path,
        ...(await ask({ path })),
      })),
    )
    const onMetrics = await ask({ path: '/metrics' }, metricsAddress)
    for (const { path, headers } of [...answers, { path: 'metrics', ...onMetrics }]) {
      for (const name of Object.keys(SECURITY_HEADERS))
        assert.ok(headers[name.toLowerCase()], `${path}: ${name}`)
      assert.match(
        String(headers['content-security-policy']),
        /default-src 'none'.*frame-ancestors 'none'/,
        path,
      )
      for (const name of ['server', 'x-powered-by']) assert.equal(headers[name], undefined, path)
    }
  })

  test('about what is not there says no more than that', async () => {
    const { key } = await createKey(db, { name: 'all', scope: 'full' })
    const headers = { Authorization: `Bearer ${key}` }
    const ids = [
      '01890a5d-ac96-774b-bcce-b302099a8057',
      'ffffffff-ffff-ffff-ffff-ffffffffffff',
      'x',
      '..%2f',
      "'",
      '%00',
    ]
    const ofOne = app.routes.filter(
      ({ method, path, handler }) =>
        ['GET', 'DELETE'].includes(method) && path.includes('/:') && scopesOf(handler) !== undefined,
    )
    const patterns = new Set(ofOne.map(({ method, path }) => `${method} ${path}`))
    assert.ok(patterns.size > 12, [...patterns].join(', '))
    for (const pattern of patterns) {
      const [method = '', path = ''] = pattern.split(' ')
      const answers = []
      for (const id of ids) {
        answers.push(told(await ask({ method, path: path.replaceAll(/:\w+(\{[^}]*\})?/g, id), headers })))
      }
      assert.equal(answers[0]?.status, 404, `${pattern}: ${answers[0]?.body}`)
      for (const answer of answers) assert.deepEqual(answer, answers[0], pattern)
    }
  })
})

test('the port for metrics has nothing else', async () => {
  for (const { path } of app.routes) {
    const { status } = await ask({ path: path.replaceAll(/:\w+(\{[^}]*\})?/g, 'x') }, metricsAddress)
    const isItsOwn = ['/healthz', '/readyz', '/metrics'].includes(path)
    if (isItsOwn) assert.equal(status, 200, path)
    else assert.ok(status === 404 || path.includes('*'), `${path}: ${status}`)
  }
})
