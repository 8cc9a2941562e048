import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { test } from 'node:test'
import type { Hono } from 'hono'
import { documentFaults, exampleFaults, routeFaults } from '../../scripts/openapi-rules.ts'
import { createApp } from '../../src/http/app.ts'
import { bulkRecipientFields } from '../../src/http/bulk-recipient.ts'
import type { AppDeps } from '../../src/http/deps.ts'
import { bulkRecipient } from '../../src/http/openapi/emails.ts'
import { apiRoutes } from '../../src/http/openapi/routes.ts'
import { openApiText } from '../../src/http/openapi-file.ts'

const app: Hono = createApp({ maxBodyBytes: 1, hasInbox: false } as AppDeps)

test('the document describes every route, and nothing else', () => {
  assert.deepEqual(routeFaults(apiRoutes(app)), [])
})

test('a route that is not described, and an operation without a route, are told of', () => {
  const other = { method: 'GET', path: '/emails/:id{[a-z]+}/opens', scopes: [] }
  const [unknown, ...more] = routeFaults([...apiRoutes(app), other])
  assert.match(unknown ?? '', /GET \/emails\/:id\/opens is not in the document: describe it .*openapi/)
  assert.deepEqual(more, [])
  const [missing] = routeFaults(apiRoutes(app).filter(({ path }) => path !== '/stats'))
  assert.match(missing ?? '', /GET \/stats .*no route/)
})

test('the document is OpenAPI 3.1, by its own schema and by our rules, with examples that fit', async () => {
  const document = JSON.parse(openApiText(app)) as Record<string, unknown>
  assert.deepEqual(await documentFaults(document), [])
  assert.deepEqual(exampleFaults(), [])
})

test('our rules see what is wrong', async () => {
  const document = JSON.parse(openApiText(app))
  delete document.components.schemas.Email
  document.components.schemas.Nobody = { type: 'string' }
  const get = document.paths['/emails/{id}'].get
  get.summary = ''
  get.parameters = []
  delete get.responses['401']
  const faults = (await documentFaults(document)).join('\n')
  for (const fault of [
    /Email leads nowhere/,
    /Nobody is not used/,
    /GET \/emails\/\{id\} has no summary/,
    /does not describe \{id\}/,
    /has no 401/,
  ]) {
    assert.match(faults, fault)
  }
})

test('the document says the scopes that the route asks for', () => {
  const { paths } = JSON.parse(openApiText(app))
  assert.deepEqual(paths['/stats'].get.security, [
    { apiKey: ['read'] },
    { apiKey: ['operate'] },
    { apiKey: ['full'] },
  ])
  assert.deepEqual(paths['/healthz'].get.security, [])
})

test('the document is the copy in the repository', async () => {
  const copy = await readFile(new URL('../../docs/openapi.json', import.meta.url), 'utf8')
  assert.ok(copy === openApiText(app), 'run npm run openapi:write, and look at the diff')
})

test('the recipients of a bulk have the fields that are read', () => {
  assert.deepEqual(Object.keys(bulkRecipient.shape).sort(), bulkRecipientFields.toSorted())
})
