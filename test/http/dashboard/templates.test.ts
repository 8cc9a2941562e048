import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import { createKey } from '../../../src/keys/keys.ts'
import { createTestDatabase, type TestDatabase } from '../../support/database.ts'
import { startTestService, TEST_KEY, type TestService } from '../../support/service.ts'
import { type Browser, formOf, openBrowser, plain } from './browser.ts'

let database: TestDatabase
let service: TestService
let author: Browser
let operator: Browser

before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  service = await startTestService(database, { SLUICE_ROLES: 'api' })
  author = openBrowser(service.url ?? '')
  await author.signIn(TEST_KEY)
  operator = openBrowser(service.url ?? '')
  await operator.signIn((await createKey(service.db, { name: 'on call', scope: 'operate' })).key)
})

const PATH = '/dashboard/templates'

async function make(name: string, html: string): Promise<string> {
  const response = await service.request('/templates', {
    body: {
      name,
      subject: 'Order {{ number }}',
      html,
      text: 'Hello {{ name }}',
      variables: [{ key: 'name', type: 'string' }],
    },
  })
  const { id } = (await response.json()) as { id: string }
  assert.equal(response.status, 200)
  return id
}

const change = (id: string, html: string) =>
  service.request(`/templates/${id}`, { method: 'PATCH', body: { html } })
const publish = (id: string) => service.request(`/templates/${id}/publish`, { method: 'POST' })

test('the list leads to each, with its versions and its source', async () => {
  const id = await make('listed', '<p>One {{ name }}</p>')
  await publish(id)
  await change(id, '<p>Two {{ name }}</p>')
  const list = await author.page(PATH)
  assert.match(list, new RegExp(`href="${PATH}/${id}"><bdi>listed`))
  const page = await author.page(`${PATH}/${id}`)
  assert.match(page, /Version 2, the draft/)
  assert.match(page, /&lt;p&gt;Two \{\{ name \}\}/)
  assert.match(page, /name \(string\)/)
  const older = await author.page(`${PATH}/${id}?version=1`)
  assert.match(older, /Version 1, published/)
  assert.match(older, /&lt;p&gt;One/)
})

test('a preview shows each part as it would be sent, names what is missing, and lets nothing in it run', async () => {
  const id = await make('tried', '<p style="color:red">Hi {{ name }}</p><script>alert(1)</script>')
  const page = await author.page(`${PATH}/${id}`)
  assert.match(page, /<textarea[^>]*>\{\s*&quot;name&quot;: &quot;&quot;/)
  const tried = await author.submit(page, `${PATH}/${id}/preview`, { data: '{"name": "<b>Ann"}' })
  const source = plain(/<iframe sandbox srcdoc="([^"]*)"/.exec(tried)?.[1] ?? '')
  assert.match(source, /<p style="color:red">Hi &lt;b&gt;Ann<\/p>/)
  assert.match(tried, /<pre[^>]*>Hello &lt;b&gt;Ann/)
  assert.match(tried, /Missing:<\/strong> number/)
  const { hidden, action } = formOf(page, `${PATH}/${id}/preview`)
  const response = await author.request(action, {
    method: 'POST',
    headers: { 'Content-Type': 'application/x-www-form-urlencoded' },
    body: new URLSearchParams(hidden).toString(),
  })
  const policy = response.headers.get('Content-Security-Policy') ?? ''
  assert.match(policy, /^default-src 'none'; style-src 'self' 'unsafe-inline'/)
  assert.doesNotMatch(policy, /script-src|connect-src/)
})

test('data that is none, and a template that fails, are said beside the data that was given', async () => {
  const id = await make('failing', '<p>{{ name | date: "%Y" }}{% for a in list %}{{ a }}{% endfor %}</p>')
  const page = await author.page(`${PATH}/${id}`)
  for (const [data, words] of [
    ['{"name":', /not valid JSON/],
    ['[1]', /role="alert">.*variables/],
    ['"x"', /role="alert">.*variables/],
    ['{"__proto__": {}}', /role="alert"|role="status"/],
  ] as const) {
    const tried = await author.submit(
      page,
      `${PATH}/${id}/preview`,
      { data },
      data.startsWith('{"__') ? 200 : 422,
    )
    assert.match(tried, words, data)
  }
})

test('a draft is published and an older version brought back, once each', async () => {
  const id = await make('versions', '<p>One</p>')
  const draft = await author.page(`${PATH}/${id}`)
  assert.match(await author.submit(draft, `${PATH}/${id}/publish`), /Version 1 is published/)
  await change(id, '<p>Broken</p>')
  await publish(id)
  const page = await author.page(`${PATH}/${id}`)
  const back = await author.submit(page, `${PATH}/${id}/rollback`)
  assert.match(back, /What version 1 holds is published as version 3/)
  assert.match(
    await author.submit(page, `${PATH}/${id}/rollback`, { version: '3' }),
    /Version 3 is in use already/,
  )
  assert.match(
    await author.submit(page, `${PATH}/${id}/rollback`, { version: '99' }),
    /there is no published version 99/,
  )
  const [row] = await database.query<{ count: number }>(
    'select count(*)::integer as count from mail.template_version where template_id = $1',
    [id],
  )
  assert.equal(row?.count, 3)
})

test('a key that may operate sees which version is in use, and neither source nor preview', async () => {
  const id = await make('closed', '<p>Secret words</p>')
  await publish(id)
  const page = await operator.page(`${PATH}/${id}`)
  assert.match(page, /shown to keys of scope/)
  assert.doesNotMatch(page, /Secret|<textarea|Roll back/)
  const token = formOf(page, '/logout').hidden.form_token ?? ''
  for (const verb of ['preview', 'publish', 'rollback']) {
    const response = await operator.request(`${PATH}/${id}/${verb}`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/x-www-form-urlencoded' },
      body: new URLSearchParams({ form_token: token, version: '1' }).toString(),
    })
    assert.equal(response.status, 403)
    assert.match(await response.text(), /keys of scope full/)
  }
})

test('one that is not there is said in a page', async () => {
  const id = await make('there', '<p>x</p>')
  for (const path of ['x', '01890a5d-ac96-774b-bcce-b302099a8057', `${id}?version=7`]) {
    assert.match(await author.page(`${PATH}/${path}`, 404), /no such template/)
  }
  assert.match(await author.page(`${PATH}/${id}?version=x`, 422), /Version: .* is not a whole number/)
  assert.match(await author.page(`${PATH}?after=01890a5d-ac96-774b-bcce-b302099a8057`), /<h1[^>]*>Templates/)
})
