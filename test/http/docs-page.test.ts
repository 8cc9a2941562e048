import assert from 'node:assert/strict'
import { test } from 'node:test'
import { docsRoutes } from '../../src/http/docs-page.ts'

const app = docsRoutes()

test('the page loads nothing but what is served beside it, each file known by its tag', async () => {
  const page = await app.request('/')
  assert.equal(page.headers.get('Content-Type'), 'text/html; charset=utf-8')
  const html = await page.text()
  assert.doesNotMatch(html, /https?:|<script>|<style/)
  const files = [...html.matchAll(/(?:src|href)="\/docs(\/[^"]+)"/g)].map(([, path = '']) => path)
  assert.deepEqual(files, ['/swagger-ui.css', '/swagger-ui-bundle.js', '/start.js'])
  for (const path of ['/', ...files]) {
    const first = await app.request(path)
    assert.equal(first.status, 200, path)
    assert.ok((await first.arrayBuffer()).byteLength > 100, path)
    const tag = first.headers.get('ETag') ?? ''
    assert.match(tag, /^"[\w-]{27}"$/, path)
    const again = await app.request(path, { headers: { 'If-None-Match': `"other", W/${tag}` } })
    assert.deepEqual([again.status, await again.text(), again.headers.get('ETag')], [304, '', tag])
    assert.equal((await app.request(path, { headers: { 'If-None-Match': '"other"' } })).status, 200)
  }
})

test('nothing from elsewhere may run in it, or be asked by it', async () => {
  const { headers } = await app.request('/')
  const policy = headers.get('Content-Security-Policy') ?? ''
  assert.match(policy, /^default-src 'none'/)
  assert.doesNotMatch(policy, /unsafe|\*|http/)
  assert.equal(headers.get('X-Content-Type-Options'), 'nosniff')
})

test('its start keeps no key, asks no validator and takes no settings from the address', async () => {
  const start = await (await app.request('/start.js')).text()
  for (const setting of ['persistAuthorization: false', 'validatorUrl: null', 'queryConfigEnabled: false']) {
    assert.ok(start.includes(setting), setting)
  }
  assert.doesNotMatch(start, /https?:/)
})
