import assert from 'node:assert/strict'
import { before, describe, test } from 'node:test'
import { openPool } from '../../../src/db/pool.ts'
import { createSessions, SESSION_S } from '../../../src/http/dashboard/session.ts'
import { Keyring } from '../../../src/keys/keyring.ts'
import { createKey, type KeyScope, revokeKey, rotateKey } from '../../../src/keys/keys.ts'
import { createLog } from '../../../src/log.ts'
import { createTestDatabase, type TestDatabase } from '../../support/database.ts'
import { startTestService, TEST_KEY, type TestService } from '../../support/service.ts'
import { formOf, openBrowser } from './browser.ts'

let database: TestDatabase
let service: TestService

before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  service = await startTestService(database, {
    SLUICE_ROLES: 'api',
    SLUICE_PUBLIC_URL: 'https://mail.example.com',
  })
})

const open = () => openBrowser(service.url ?? '')
const FORM = { 'Content-Type': 'application/x-www-form-urlencoded' }
const keyOf = (scope: KeyScope) => createKey(service.db, { name: `key <b>${scope}`, scope })
const post = (key: string, headers: Record<string, string> = {}) =>
  open().request('/login', {
    method: 'POST',
    headers: { ...FORM, ...headers },
    body: new URLSearchParams({ key }).toString(),
  })

describe('signing in', () => {
  test('without a session every page leads to the one to sign in, and from there to what was asked for', async () => {
    const browser = open()
    const asked = await browser.request('/dashboard/messages?q=a%20b')
    assert.equal(asked.status, 303)
    const target = asked.headers.get('Location') ?? ''
    const page = await browser.page(target)
    assert.equal(formOf(page, '/login').hidden.next, '/dashboard/messages?q=a%20b')
    const response = await browser.request('/login', {
      method: 'POST',
      headers: FORM,
      body: new URLSearchParams({ key: ` ${TEST_KEY} `, next: '/dashboard/messages?q=a%20b' }).toString(),
    })
    assert.deepEqual(
      [response.status, response.headers.get('Location')],
      [303, '/dashboard/messages?q=a%20b'],
    )
    assert.equal((await browser.request('/login')).headers.get('Location'), '/')
    assert.match(await browser.page('/'), /<h1[^>]*>Overview/)
  })

  test('a full or operate key opens it; a read or send key is told which would', async () => {
    for (const scope of ['full', 'operate'] as const) {
      const browser = open()
      await browser.signIn((await keyOf(scope)).key)
      assert.ok((await browser.page('/')).includes(`key &lt;b&gt;${scope}`))
    }
    for (const scope of ['read', 'send'] as const) {
      const response = await post((await keyOf(scope)).key)
      assert.equal(response.status, 403)
      assert.match(await response.text(), new RegExp(`has the scope ${scope}; .* operate or full`))
      assert.equal(response.headers.get('Set-Cookie'), null)
    }
  })

  test('a wrong key is told so, and is not repeated in the page', async () => {
    for (const key of ['', 'wrong<script>', `${TEST_KEY}x`, 'sluice_aaaaaaaaaaaa_x']) {
      const response = await post(key)
      const page = await response.text()
      assert.equal(response.status, 401)
      assert.match(page, /role="alert">This key is not valid/)
      assert.ok(key === '' || !page.includes(key))
    }
  })

  test('after it, nobody is led away from here', async () => {
    for (const next of [
      '//evil.example/dashboard/',
      'https://evil.example',
      '/\\evil.example',
      '/emails',
      'x:y',
    ]) {
      const browser = open()
      const body = new URLSearchParams({ key: TEST_KEY, next }).toString()
      const response = await browser.request('/login', { method: 'POST', headers: FORM, body })
      assert.equal(response.headers.get('Location'), '/', next)
    }
  })

  test('another site cannot sign anybody in', async () => {
    for (const headers of [
      { 'Sec-Fetch-Site': 'cross-site' },
      { 'Sec-Fetch-Site': 'same-site' },
      { 'Sec-Fetch-Site': 'none' },
    ]) {
      assert.equal((await post(TEST_KEY, headers)).status, 403)
    }
  })

  test('a browser without fetch metadata is known by its origin, also behind a proxy', async () => {
    const { host } = new URL(service.url ?? '')
    for (const [origin, status] of [
      [`http://${host}`, 303],
      ['https://mail.example.com', 303],
      ['https://evil.example', 403],
      ['null', 403],
      [undefined, 403],
    ] as const) {
      const response = await fetch(new URL('/login', service.url), {
        method: 'POST',
        redirect: 'manual',
        headers: { ...FORM, ...(origin !== undefined && { Origin: origin }) },
        body: `key=${TEST_KEY}`,
      })
      assert.equal(response.status, status, origin)
    }
  })
})

describe('the session', () => {
  test('its cookie holds no key, is out of reach of scripts and other sites, and secure where https is', async () => {
    const { id, key } = await keyOf('operate')
    const cookie = (await post(key)).headers.get('Set-Cookie') ?? ''
    assert.match(cookie, /^sluice_session=[^;]+; Max-Age=43200; Path=\/; HttpOnly; SameSite=Strict$/)
    assert.ok(cookie.includes(id) && !cookie.includes(key.slice(20, 40)))
    const proxied = await post(key, { 'X-Forwarded-Proto': 'https' })
    assert.match(proxied.headers.get('Set-Cookie') ?? '', /; Secure/)
  })

  test('ends at once with its key: revoked, expired, or its secret replaced', async () => {
    const endings: ((id: string) => Promise<unknown>)[] = [
      (id) => revokeKey(service.db, id),
      (id) =>
        database.query("update mail.api_key set expires_at = now() - interval '1 s' where id = $1", [id]),
      (id) => rotateKey(service.db, { id, overlapS: 0 }),
    ]
    for (const end of endings) {
      const { id, key } = await keyOf('operate')
      const browser = open()
      await browser.signIn(key)
      const page = await browser.page('/')
      await end(id)
      const response = await browser.request('/')
      assert.deepEqual([response.status, response.headers.get('Location')], [303, '/login'])
      assert.match(await browser.submit(page, '/logout', {}, 403), /You are not signed in/)
    }
  })

  test('outlives a rotation with an overlap, and ends after twelve hours', async (t) => {
    const { id, key } = await keyOf('operate')
    const pool = openPool({ url: database.url, maxConnections: 2, role: undefined, log: createLog('silent') })
    t.after(() => pool.close())
    let now = Date.now()
    const keyring = new Keyring(pool.db, undefined)
    const sessions = createSessions({ db: pool.db, keyring, clock: { now: () => now } })
    const caller = await keyring.identify(key)
    const token = caller && (await sessions.open(caller, key))
    assert.ok(caller && token)
    await rotateKey(pool.db, { id, overlapS: 60 })
    assert.equal((await sessions.read(token))?.caller.keyId, id)
    now += SESSION_S * 1_000 - 1_000
    assert.ok(await sessions.read(token))
    now += 1_001
    assert.equal(await sessions.read(token), undefined)
  })

  test('cannot be made up or changed', async () => {
    const mine = open()
    await mine.signIn((await keyOf('operate')).key)
    const token = mine.cookie.replace('sluice_session=', '')
    const [id = '', expiry = '', nonce = '', proof = ''] = token.split('.')
    const other = (await keyOf('full')).id
    for (const forged of [
      `${other}.${expiry}.${nonce}.${proof}`,
      `bootstrap.${expiry}.${nonce}.${proof}`,
      `${id}.${Number(expiry) + 1}.${nonce}.${proof}`,
      `${id}.${expiry}.${'A'.repeat(22)}.${proof}`,
      `${id}.${expiry}.${nonce}.${'A'.repeat(43)}`,
      `${id}.${expiry}.${nonce}.`,
      'x'.repeat(4_000),
    ]) {
      const browser = open()
      browser.cookie = `sluice_session=${forged}`
      assert.equal((await browser.request('/')).status, 303, forged)
    }
  })

  test('signing out forgets it', async () => {
    const browser = open()
    await browser.signIn(TEST_KEY)
    const page = await browser.submit(await browser.page('/'), '/logout')
    assert.match(page, /<h1[^>]*>Sign in/)
    assert.equal(browser.cookie, 'sluice_session=')
  })
})

describe('forms', () => {
  test('without the token of this session, or from another site, nothing is done', async () => {
    const browser = open()
    await browser.signIn(TEST_KEY)
    const page = await browser.page('/')
    const stale = open()
    await stale.signIn(TEST_KEY)
    const old = formOf(await stale.page('/'), '/logout').hidden.form_token ?? ''
    for (const token of ['', 'x', old]) {
      assert.match(await browser.submit(page, '/logout', { form_token: token }, 403), /This page is old/)
    }
    const right = new URLSearchParams(formOf(page, '/logout').hidden).toString()
    for (const headers of [{ ...FORM, 'Sec-Fetch-Site': 'cross-site' }, { 'Content-Type': 'text/plain' }]) {
      const response = await browser.request('/logout', { method: 'POST', headers, body: right })
      assert.equal(response.status, 403)
    }
    assert.match(await browser.page('/'), /Overview/)
  })

  test('one that is too large is refused in a page', async () => {
    const browser = open()
    await browser.signIn(TEST_KEY)
    const page = await browser.page('/')
    assert.match(await browser.submit(page, '/logout', { more: 'x'.repeat(600_000) }, 413), /larger than/)
  })
})

describe('pages', () => {
  test('load nothing from elsewhere, run no script of their own, and stand in no frame', async () => {
    const response = await open().request('/login')
    const policy = response.headers.get('Content-Security-Policy') ?? ''
    assert.match(policy, /^default-src 'none'.*frame-ancestors 'none'$/)
    assert.doesNotMatch(policy, /unsafe|\*|http|data:/)
    assert.equal(response.headers.get('X-Content-Type-Options'), 'nosniff')
    assert.equal(response.headers.get('Cache-Control'), 'no-store')
    assert.doesNotMatch(await response.text(), /style=|<style|<script>|\son\w+=|https?:/)
  })

  test('their files are known by a tag, and need no session', async () => {
    const page = await open().page('/login')
    const files = [...page.matchAll(/href="(\/dashboard\/assets\/[^"]+)"/g)].map(([, path = '']) => path)
    assert.deepEqual(files.sort(), ['/dashboard/assets/dashboard.css', '/dashboard/assets/icon.svg'])
    for (const path of files) {
      const first = await open().request(path)
      const tag = first.headers.get('ETag') ?? ''
      assert.deepEqual([first.status, tag.length], [200, 29])
      assert.equal((await open().request(path, { headers: { 'If-None-Match': tag } })).status, 304)
    }
  })

  test('what is not there, or takes no such method, is said in a page', async () => {
    const browser = open()
    await browser.signIn(TEST_KEY)
    assert.match(await browser.page('/dashboard/nothing', 404), /There is no such page/)
    for (const [method, path] of [
      ['PUT', '/'],
      ['DELETE', '/login'],
      ['GET', '/logout'],
      ['POST', '/dashboard/assets/icon.svg'],
    ] as const) {
      const page = await browser.page('/')
      const token = formOf(page, '/logout').hidden.form_token ?? ''
      const body = new URLSearchParams({ form_token: token }).toString()
      const response = await browser.request(path, {
        method,
        headers: FORM,
        ...(method !== 'GET' && { body }),
      })
      assert.equal(response.status, 405, path)
      assert.match(await response.text(), /This cannot be done here/)
      assert.ok(response.headers.get('Allow'), path)
    }
  })
})

test('guessing keys is slowed down, for the page as for the API', async () => {
  const other = await startTestService(database, { SLUICE_ROLES: 'api' })
  const guess = () =>
    openBrowser(other.url ?? '').request('/login', { method: 'POST', headers: FORM, body: 'key=wrong' })
  for (let attempt = 0; attempt < 60; attempt += 1) assert.equal((await guess()).status, 401)
  const refused = await guess()
  assert.equal(refused.status, 429)
  assert.ok(Number(refused.headers.get('Retry-After')) > 0)
  assert.match(await refused.text(), /Too many wrong keys/)
  const browser = openBrowser(other.url ?? '')
  await browser.signIn(TEST_KEY)
})
