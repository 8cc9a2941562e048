import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import { createKey } from '../../../src/keys/keys.ts'
import { createTestDatabase, type TestDatabase } from '../../support/database.ts'
import { addProvider } from '../../support/pacing.ts'
import { startTestService, TEST_KEY, type TestService } from '../../support/service.ts'
import { openBrowser } from './browser.ts'

let database: TestDatabase
let service: TestService

before(async (t) => {
  const context = t as Parameters<typeof createTestDatabase>[0]
  database = await createTestDatabase(context)
  for (const name of ['first', 'second']) await addProvider(database, name)
  await database.query("insert into mail.stream (name, route) values ('letters', '{first}')")
  service = await startTestService(database, { SLUICE_ROLES: 'api' })
})

async function routeOfLetters(): Promise<unknown> {
  const [row] = await database.query<{ route: string[] }>(
    "select route from mail.stream where name = 'letters'",
  )
  return row?.route
}

test('the route of a stream is changed on its page, and what cannot be one is refused with the reason', async () => {
  const browser = openBrowser(service.url ?? '')
  await browser.signIn(TEST_KEY)
  const page = await browser.page('/dashboard/streams/letters')
  const action = '/dashboard/streams/letters/route'

  const done = await browser.submit(page, action, { route: ' second,first ' })
  assert.match(done, /Done:<\/strong> Mail of stream letters goes to second, then first\./)
  assert.deepEqual(await routeOfLetters(), ['second', 'first'])

  assert.match(await browser.submit(page, action, { route: 'second, nowhere' }), /Not done:.*nowhere/s)
  assert.match(await browser.submit(page, action, { route: ' ' }), /Not done:.*route/s)
  assert.deepEqual(await routeOfLetters(), ['second', 'first'])
})

test('a route is changed by keys that may do everything, and no stream is made by it', async () => {
  const full = openBrowser(service.url ?? '')
  await full.signIn(TEST_KEY)
  const form = await full.page('/dashboard/streams/letters')
  const elsewhere = form.replaceAll('/dashboard/streams/letters/route', '/dashboard/streams/unheard/route')
  await full.submit(elsewhere, '/dashboard/streams/unheard/route', { route: 'first' }, 404)
  assert.deepEqual(await database.query("select from mail.stream where name = 'unheard'"), [])

  const { key } = await createKey(service.db, { name: 'on call', scope: 'operate' })
  const operator = openBrowser(service.url ?? '')
  await operator.signIn(key)
  const page = await operator.page('/dashboard/streams/letters')
  assert.doesNotMatch(page, /Change the route/)
  const forged = page.replaceAll('/dashboard/streams/letters/pause', '/dashboard/streams/letters/route')
  await operator.submit(forged, '/dashboard/streams/letters/route', { route: 'first' }, 403)
})
