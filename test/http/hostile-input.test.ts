import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import { before, describe, test } from 'node:test'
import { gzipSync } from 'node:zlib'
import fc from 'fast-check'
import type { Hono } from 'hono'
import { METHOD_NAME_ALL } from 'hono/router'
import { createApp } from '../../src/http/app.ts'
import type { AppDeps } from '../../src/http/deps.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { orderMail, startTestService, TEST_KEY, type TestService } from '../support/service.ts'
import { type Browser, formOf, openBrowser } from './dashboard/browser.ts'

let database: TestDatabase
let service: TestService
/** Only for the list of its routes: what is thrown at them goes to the service. */
let app: Hono
/** Signed in to the dashboard, with the token that its forms carry. */
let browser: Browser
let formToken: string

before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  service = await startTestService(database, { SLUICE_ROLES: 'api' })
  app = createApp({ hasInbox: true } as AppDeps)
  browser = openBrowser(service.url ?? '')
  await browser.signIn(TEST_KEY)
  formToken = formOf(await browser.page('/'), '/logout').hidden.form_token ?? ''
})

type ErrorBody = { statusCode: number; name: string; message: string }

async function errorOf(response: Response, status: number): Promise<string> {
  const body = (await response.json()) as ErrorBody
  assert.deepEqual([response.status, body.statusCode], [status, status], body.message)
  assert.deepEqual(Object.keys(body).sort(), ['message', 'name', 'statusCode'])
  return body.message
}

const MAIL = JSON.stringify(orderMail())
const BULK = `{"message":{"from":"a@example.com","subject":"x","text":"x"},"recipients":[{"to":"b@example.com"}]}`
/** Every way in for a body. */
const PATHS = ['/emails', '/emails/batch', '/emails/bulk', '/templates', '/dead-letters/retry']

describe('at every door', () => {
  for (const path of PATHS) {
    test(`${path}: each kind of bad body has its own answer`, async () => {
      const post = (body: string | Uint8Array<ArrayBuffer>, headers: Record<string, string> = {}) =>
        fetch(new URL(path, service.url), {
          method: 'POST',
          body,
          headers: { Authorization: `Bearer ${TEST_KEY}`, 'Content-Type': 'application/json', ...headers },
        })
      const good = path === '/emails/bulk' ? BULK : MAIL
      assert.match(await errorOf(await post(''), 400), /is empty/)
      assert.match(await errorOf(await post(`\ufeff${good}`), 400), /byte-order mark/)
      assert.match(await errorOf(await post(good.slice(0, -1)), 400), /not valid JSON/)
      assert.match(await errorOf(await post(`${good}${good}`), 400), /not valid JSON/)
      assert.match(await errorOf(await post(Buffer.from('{"message":"\xff"}', 'latin1')), 400), /valid UTF-8/)
      assert.match(await errorOf(await post(`{"message":{},"message":{}}`), 400), /`message` twice/)
      assert.match(
        await errorOf(await post(`{"message":${'['.repeat(70)}${']'.repeat(70)}}`), 400),
        /64 levels/,
      )
      assert.match(await errorOf(await post(`{"message":{"__proto__":{}}}`), 400), /`__proto__`/)
      const form = await post('a=b', { 'Content-Type': 'application/x-www-form-urlencoded' })
      assert.match(await errorOf(form, 400), /Content-Type: application\/json/)
      const bomb = gzipSync(Buffer.alloc(1_000_000, 0x20))
      const zipped = await post(new Uint8Array(bomb), { 'Content-Encoding': 'gzip' })
      assert.match(await errorOf(zipped, 415), /must not be compressed/)
    })
  }

  test('a method that a known path does not take is 405, and says which it takes', async () => {
    for (const [method, path, allowed] of [
      ['DELETE', '/emails', 'GET, HEAD, POST'],
      ['PUT', '/emails/batch', 'GET, HEAD, PATCH, POST'],
      ['POST', '/streams', 'GET, HEAD'],
      ['GET', '/streams/marketing', 'PUT'],
      ['OPTIONS', '/dead-letters/summary', 'GET, HEAD'],
      ['POST', '/healthz', 'GET, HEAD'],
    ] as const) {
      const response = await service.request(path, { method })
      assert.match(await errorOf(response, 405), new RegExp(`does not take ${method}`))
      assert.equal(response.headers.get('Allow'), allowed, path)
    }
    await errorOf(await service.request('/emails/x/y/z', { method: 'DELETE' }), 404)
  })

  test('headers without end are 431, and what is no HTTP is 400', async () => {
    for (const [request, status] of [
      [`GET /healthz HTTP/1.1\r\nHost: x\r\nX-Large: ${'x'.repeat(100_000)}\r\n\r\n`, 431],
      ['not a request\r\n\r\n', 400],
    ] as const) {
      const { hostname, port } = new URL(service.url ?? '')
      const socket = connect(Number(port), hostname)
      await once(socket, 'connect')
      socket.on('error', () => undefined)
      socket.write(request)
      const answer = await text(socket)
      assert.match(answer, new RegExp(`^HTTP/1.1 ${status} `))
      const body = JSON.parse(answer.slice(answer.indexOf('\r\n\r\n'))) as ErrorBody
      assert.deepEqual([body.statusCode, body.name], [status, 'validation_error'])
    }
  })
})

/** Text that has broken software before, and whatever else there is. */
const nasty = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 40 }),
  fc.constantFrom(
    ...[
      '',
      ' ',
      '\0',
      '%',
      '%00',
      '%ff',
      '..',
      '../../etc/passwd',
      "'; drop table mail.message; --",
      '\ud800',
    ],
    ...[
      '__proto__',
      'constructor',
      'toString',
      'null',
      'NaN',
      '-1',
      '1e999',
      '9'.repeat(400),
      'x'.repeat(5_000),
    ],
    ...[
      'infinity',
      '2026-13-45T99:99:99Z',
      '00000000-0000-7000-8000-000000000000',
      '\r\nX: y',
      '{{ x }}',
      '*',
    ],
  ),
)
const FIELDS = [
  ...['from', 'to', 'cc', 'subject', 'html', 'text', 'headers', 'tags', 'metadata', 'template', 'stream'],
  ...[
    'priority',
    'name',
    'id',
    'filter',
    'max',
    'per_second',
    'route',
    'slots',
    'options',
    'buckets',
    'quota',
  ],
  ...['message', 'recipients', 'variables', 'transport', 'credentials_env', 'base_url', 'backoff_cap_s'],
]
/** Well-formed about half the time, so that it gets past the first check. */
const value = fc.letrec<{ any: unknown; object: unknown }>((tie) => ({
  any: fc.oneof(
    { depthSize: 'small' },
    nasty,
    fc.constantFrom('a@example.com', ['b@example.com'], 'marketing', 'default', 'smtp', {}, [], null, true),
    fc.double(),
    fc.integer(),
    fc.array(tie('any'), { maxLength: 3 }),
    tie('object'),
  ),
  object: fc.dictionary(fc.oneof(fc.constantFrom(...FIELDS), nasty), tie('any'), { maxKeys: 6 }),
}))
const body = fc.oneof(
  fc.constant(undefined),
  nasty,
  value.any.map((any) => JSON.stringify(any) ?? ''),
  value.object.map((changes) => JSON.stringify({ ...orderMail(), ...(changes as object) })),
  value.object.map((changes) => JSON.stringify([orderMail(changes as Record<string, unknown>)])),
  fc
    .tuple(value.object, value.object)
    .map(([message, recipient]) => JSON.stringify({ message, recipients: [recipient] })),
  fc.tuple(value.any, nasty).map(([any, end]) => `${JSON.stringify(any)}${end}`),
)
const HEADERS = [
  'Idempotency-Key',
  'Sluice-Durability',
  'x-batch-validation',
  'Content-Type',
  'Content-Encoding',
]
const header = fc.tuple(
  fc.constantFrom(...HEADERS, 'Content-Length', 'If-None-Match', 'Accept', 'Range'),
  nasty.map((given) => given.replace(/[^\x20-\x7e\x80-\xff]/g, '')),
)

/** For people: what is wrong is said there in a page. */
const DASHBOARD = /^\/(?:dashboard\/.*)?$/
const PAGES = /^\/(?:(?:inbox|u|docs|login|logout|dashboard)(?:\/|$)|$)/

const FROM_OWN_PAGE = { 'Sec-Fetch-Site': 'same-origin', 'Content-Type': 'application/x-www-form-urlencoded' }

test('whatever is thrown at any route, the answer is never a fault of ours', async (t) => {
  const routes = app.routes.filter(({ method }) => method !== METHOD_NAME_ALL)
  assert.ok(routes.length >= 20)
  let slowest = { ms: 0, what: '' }
  const answers = new Map<number, number>()
  const property = fc.asyncProperty(
    fc.constantFrom(...routes),
    fc.array(nasty, { minLength: 4, maxLength: 4 }),
    fc.dictionary(
      fc.oneof(fc.constantFrom('limit', 'code', 'stream', 'since', 'until', 'q', 'after', 'version'), nasty),
      nasty,
      {
        maxKeys: 3,
      },
    ),
    fc.array(header, { maxLength: 3 }),
    body,
    async ({ method, path }, params, query, headers, given) => {
      const target = `${filled(path, params)}${queryOf(query)}`
      const began = performance.now()
      const response = await fetch(new URL(target, service.url), {
        method,
        redirect: 'manual',
        headers: [
          ...headers.filter(
            ([name]) => name !== 'Content-Length' && !(name === 'Content-Type' && DASHBOARD.test(path)),
          ),
          ['Authorization', `Bearer ${TEST_KEY}`],
          ...(DASHBOARD.test(path) ? Object.entries({ Cookie: browser.cookie, ...FROM_OWN_PAGE }) : []),
        ],
        ...(given !== undefined &&
          method !== 'GET' && { body: DASHBOARD.test(path) ? formOfThings(query, params) : given }),
      })
      const answer = await response.text()
      const ms = performance.now() - began
      answers.set(response.status, (answers.get(response.status) ?? 0) + 1)
      if (ms > slowest.ms) slowest = { ms, what: `${method} ${path}` }
      assert.ok(response.status < 500, `${method} ${target} ${given}: ${response.status} ${answer}`)
      // A `..` in its place leads elsewhere.
      if (response.status >= 400 && !PAGES.test(new URL(target, service.url).pathname)) {
        assert.equal((JSON.parse(answer) as ErrorBody).statusCode, response.status)
      }
    },
  )
  await fc.assert(property, {
    numRuns: 3_000,
    interruptAfterTimeLimit: 60_000,
    markInterruptAsFailure: false,
  })
  t.diagnostic(`answers by status: ${JSON.stringify(Object.fromEntries(answers))}`)
  t.diagnostic(`the slowest answer took ${Math.round(slowest.ms)} ms: ${slowest.what}`)
})

/** As a page of ours sends them, and then anything. */
function formOfThings(
  query: Record<string, string>,
  [first = '', second = '', third = '']: readonly string[],
): string {
  const fields = {
    id: first,
    filter: second,
    max: third,
    version: '1',
    data: third,
    at: second,
    as: third,
    address: first,
  }
  const pairs = Object.entries({ ...fields, ...query, form_token: formToken })
  return new URLSearchParams(
    pairs.map(([name, given]): [string, string] => [name.toWellFormed(), given.toWellFormed()]),
  ).toString()
}

function filled(path: string, params: readonly string[]): string {
  let nth = 0
  return path.replace(/:[^/{]+(?:\{[^}]*\}+)?/g, () => {
    const given = params[nth++ % params.length] ?? ''
    return encodeURIComponent(given.toWellFormed()) || 'x'
  })
}

function queryOf(query: Record<string, string>): string {
  const pairs = Object.entries(query).map(
    ([name, given]) =>
      `${encodeURIComponent(name.toWellFormed())}=${encodeURIComponent(given.toWellFormed())}`,
  )
  return pairs.length === 0 ? '' : `?${pairs.join('&')}`
}
