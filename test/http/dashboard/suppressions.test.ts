import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import { createKey } from '../../../src/keys/keys.ts'
import { createTestDatabase, type TestDatabase } from '../../support/database.ts'
import { startTestService, type TestService } from '../../support/service.ts'
import { type Browser, openBrowser, plain } from './browser.ts'

let database: TestDatabase
let service: TestService
let browser: Browser

before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  service = await startTestService(database, { SLUICE_ROLES: 'api' })
  browser = openBrowser(service.url ?? '')
  await browser.signIn((await createKey(service.db, { name: 'on call', scope: 'operate' })).key)
})

const PATH = '/dashboard/suppressions'

function suppressionOf(address: string) {
  return database.query<{ scope: string; reason: string; source: string; expires_at: Date | null }>(
    'select scope, reason, source, expires_at from mail.suppression where address = $1 order by scope',
    [address],
  )
}

test('an address is added, found by a part of it, and taken off; each says what came of it', async () => {
  const page = await browser.page(PATH)
  const fields = { address: 'Ann@Example.net', scope: '*', reason: 'asked us to stop' }
  const added = await browser.submit(page, `${PATH}/add`, fields)
  assert.match(added, /class="notice done".*ann@example\.net gets no more mail\./)
  const [row] = await suppressionOf('ann@example.net')
  assert.deepEqual([row?.scope, row?.reason, row?.expires_at], ['*', 'asked us to stop', null])
  assert.match(row?.source ?? '', /on call/)

  const found = await browser.page(`${PATH}?q=NN@exam`)
  assert.match(found, /<bdi>ann@example\.net<\/bdi>/)
  assert.match(found, /asked us to stop/)
  const removed = await browser.submit(found, `${PATH}/remove`)
  assert.match(removed, /class="notice done".*ann@example\.net may get mail again/)
  assert.deepEqual(await suppressionOf('ann@example.net'), [])
  assert.match(
    await browser.submit(found, `${PATH}/remove`),
    /class="notice nothing".*not on the list any more/,
  )
})

test('one stream and an end can be given; what is wrong is said, and nothing is stored', async () => {
  const page = await browser.page(PATH)
  const add = (fields: Record<string, string>) =>
    browser.submit(page, `${PATH}/add`, { address: 'bob@example.net', scope: 'marketing', ...fields })
  assert.match(await add({ until: '2999-01-31T12:00' }), /gets no more mail of marketing/)
  const [row] = await suppressionOf('bob@example.net')
  assert.equal(row?.expires_at?.toISOString(), '2999-01-31T12:00:00.000Z')
  for (const [fields, words] of [
    [{ address: 'no address' }, /Not done:<\/strong> Address: /],
    [{ address: 'Eve <eve@example.net>' }, /it has a name or brackets/],
    [{ address: 'eve@example.net', scope: 'nope' }, /Applies to: there is no stream/],
    [{ address: 'eve@example.net', until: '2020-01-01T00:00' }, /Until: it is in the past/],
    [{ address: 'eve@example.net', until: 'soon' }, /Until: .*not a date and time/],
  ] as const) {
    assert.match(await add(fields), words)
  }
  assert.deepEqual(await suppressionOf('eve@example.net'), [])
})

test('stronger evidence stays, and is shown with the message that led to it', async () => {
  const id = '01890a5d-ac96-774b-bcce-b302099a8057'
  await database.query(`select mail.suppress('hard@example.net', 'no such user', '*', 'bounce', $1::jsonb)`, [
    JSON.stringify({ rule: 'hard bounce', message_id: id, code: '5.1.1' }),
  ])
  const page = await browser.page(`${PATH}?q=hard@example.net&origin=bounce`)
  assert.match(page, /no such user/)
  assert.match(page, new RegExp(`<dt>message_id</dt><dd><a href="/dashboard/messages/${id}">`))
  const fields = { address: 'hard@example.net', scope: '*', reason: 'mine' }
  assert.match(
    await browser.submit(page, `${PATH}/add`, fields),
    /class="notice nothing".*on the list already, because of a bounce/,
  )
  assert.equal((await suppressionOf('hard@example.net'))[0]?.reason, 'no such user')
})

test('the list pages, keeps its filter, and can be exported', async () => {
  await database.query(
    `insert into mail.suppression (address, reason) select 'page' || n || '@example.org', 'test' from generate_series(1, 60) n`,
  )
  const first = await browser.page(`${PATH}?q=example.org`)
  const second = await browser.page(plain(/href="([^"]*)">Older/.exec(first)?.[1] ?? ''))
  const shown = (page: string) =>
    [...page.matchAll(/<bdi>(page\d+)@example\.org/g)].map(([, address]) => address)
  assert.equal(new Set([...shown(first), ...shown(second)]).size, 60)
  assert.match(second, /value="example\.org"/)
  const exported = await browser.request(`${PATH}/export`)
  assert.match(exported.headers.get('Content-Type') ?? '', /^text\/csv/)
  assert.match(await exported.text(), /page60@example\.org/)
  assert.match(
    await browser.page(`${PATH}?after=nonsense&origin=x&scope=%00&q=%00`),
    /No address on the list/,
  )
})
