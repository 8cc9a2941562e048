import assert from 'node:assert/strict'
import fc from 'fast-check'
import { METHOD_NAME_ALL } from 'hono/router'
import { createApp } from '../../src/http/app.ts'
import type { AppDeps } from '../../src/http/deps.ts'
import { formOf, openBrowser } from '../http/dashboard/browser.ts'
import { startKillablePostgres } from '../support/killable-postgres.ts'
import type { Scope } from '../support/scope.ts'
import { orderMail, spawnService, TEST_KEY } from '../support/service.ts'
import type { FuzzTarget } from './target.ts'

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

const request = fc.record({
  params: fc.array(nasty, { minLength: 4, maxLength: 4 }),
  query: fc.dictionary(
    fc.oneof(fc.constantFrom('limit', 'code', 'stream', 'since', 'until', 'q', 'after', 'version'), nasty),
    nasty,
    { maxKeys: 3 },
  ),
  headers: fc.array(header, { maxLength: 3 }),
  given: body,
})

export const routes: FuzzTarget = {
  name: 'routes',
  about: 'any parameters, headers and body to every route of the API and the dashboard',
  open: async (scope) => {
    const server = await startKillablePostgres(scope)
    const { url } = await spawnService(scope, server.url, { LOG_LEVEL: 'info', SLUICE_ROLES: 'api' })
    return anyRequests(url, scope)
  },
}

type Answered = { slowest: { ms: number; what: string }; readonly byStatus: Map<number, number> }

/** Anything to any route of the service at this URL: the answer is never a fault of ours. */
export async function anyRequests(url: string, scope: Scope): Promise<fc.IAsyncProperty<[unknown]>> {
  const known = createApp({ hasInbox: true } as AppDeps).routes.filter(
    ({ method }) => method !== METHOD_NAME_ALL,
  )
  assert.ok(known.length >= 20)
  const browser = openBrowser(url)
  await browser.signIn(TEST_KEY)
  const formToken = formOf(await browser.page('/'), '/logout').hidden.form_token ?? ''
  const answered: Answered = { slowest: { ms: 0, what: '' }, byStatus: new Map() }
  scope.after(() => {
    scope.diagnostic(`answers by status: ${JSON.stringify(Object.fromEntries(answered.byStatus))}`)
    const { ms, what } = answered.slowest
    scope.diagnostic(`the slowest answer took ${Math.round(ms)} ms: ${what}`)
  })
  const property = fc.asyncProperty(
    fc.constantFrom(...known.map(({ method, path }) => ({ method, path }))),
    request,
    async ({ method, path }, { params, query, headers, given }) => {
      const target = `${filled(path, params)}${queryOf(query)}`
      const isPage = DASHBOARD.test(path)
      const began = performance.now()
      const response = await fetch(new URL(target, url), {
        method,
        redirect: 'manual',
        headers: [
          ...headers.filter(([name]) => name !== 'Content-Length' && !(name === 'Content-Type' && isPage)),
          ['Authorization', `Bearer ${TEST_KEY}`],
          ...(isPage ? Object.entries({ Cookie: browser.cookie, ...FROM_OWN_PAGE }) : []),
        ],
        ...(given !== undefined &&
          method !== 'GET' && { body: isPage ? formOfThings(formToken, query, params) : given }),
      })
      const answer = await response.text()
      note(answered, response.status, { ms: performance.now() - began, what: `${method} ${path}` })
      assert.ok(response.status < 500, `${method} ${target} ${given}: ${response.status} ${answer}`)
      // A `..` in its place leads elsewhere.
      if (response.status >= 400 && !PAGES.test(new URL(target, url).pathname)) {
        assert.equal((JSON.parse(answer) as { statusCode: number }).statusCode, response.status)
      }
    },
  )
  return property as unknown as fc.IAsyncProperty<[unknown]>
}

function note(answered: Answered, status: number, took: Answered['slowest']): void {
  answered.byStatus.set(status, (answered.byStatus.get(status) ?? 0) + 1)
  if (took.ms > answered.slowest.ms) answered.slowest = took
}

/** As a page of ours sends them, and then anything. */
function formOfThings(
  formToken: string,
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
