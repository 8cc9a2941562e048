import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import { createKey } from '../../../src/keys/keys.ts'
import { createTestDatabase, type TestDatabase } from '../../support/database.ts'
import { eventually } from '../../support/eventually.ts'
import { startTestService, type TestService } from '../../support/service.ts'
import { type Browser, formOf, openBrowser, plain } from './browser.ts'

let database: TestDatabase
let service: TestService
let browser: Browser

before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  // Without a worker: what is retried stays where it was put, and can be counted.
  service = await startTestService(database, { SLUICE_ROLES: 'api' })
  browser = openBrowser(service.url ?? '')
  await browser.signIn((await createKey(service.db, { name: 'on call', scope: 'operate' })).key)
})

const GROUPS = '/dashboard/dead-letters'

/** What the intake cannot understand, from a source of its own. */
async function refuse(source: string, count: number): Promise<string[]> {
  await database.query(
    `insert into mail.outbox (message, source)
     select json_build_object('from', 'crm@example.com', 'to', 'customer ' || n, 'subject', 'Hi', 'text', 'Hi'), $1
     from generate_series(1, $2::integer) n`,
    [source, count],
  )
  return eventually(`${count} dead letters of ${source}`, async () => {
    const rows = await lettersOf(source)
    return rows.length === count && rows
  })
}

async function lettersOf(source: string): Promise<string[]> {
  const rows = await database.query<{ message_id: string }>(
    'select message_id from mail.dead_letter where source = $1 order by died_at desc, message_id desc',
    [source],
  )
  return rows.map(({ message_id }) => message_id)
}

/** As processing leaves it. */
async function failTemplate(count: number): Promise<void> {
  await database.query(
    `with made as (
       insert into mail.message (id, seq, accepted_at, priority, status, stream, template, template_version, source)
       select mail.uuid7(), n, now(), 5, 'dead', 'transactional', 'welcome', 3, 'signup ' || n
       from generate_series(1, $1::integer) n
       returning id, source
     ), content as (
       insert into mail.message_content (id, message) select id, '{"to":[],"cc":[],"bcc":[]}' from made
     )
     insert into mail.dead_letter (message_id, stage, code, reason, stream, template, template_version, source, recipient_domain)
     select id, 'processing', 'template_syntax', 'undefined filter: pad', 'transactional', 'welcome', 3, source, 'example.net'
     from made`,
    [count],
  )
}

/** Where the forms of single letters are. */
function rowsOf(page: string): string {
  return page.slice(page.indexOf('<tbody'))
}

/** Follows the link of a group. */
async function lettersPage(text: RegExp): Promise<string> {
  const row = [...(await browser.page(GROUPS)).matchAll(/<tr role="row">.*?<\/tr>/gs)].find(([each]) =>
    text.test(each),
  )
  const href = plain(/href="([^"]*letters\?[^"]*)"/.exec(row?.[0] ?? '')?.[1] ?? '')
  return browser.page(href)
}

test('letters with one cause are a group, which leads to exactly these', async () => {
  await failTemplate(3)
  await refuse('crm', 2)
  const groups = await browser.page(GROUPS)
  assert.match(groups, /template_syntax<\/bdi> in processing/)
  assert.match(groups, /<bdi>welcome<\/bdi> version 3/)
  assert.match(groups, /undefined filter: pad/)
  const page = await lettersPage(/template_syntax/)
  assert.match(page, /<h1[^>]*>3 dead letters/)
  assert.match(page, /signup 1.*/s)
  assert.doesNotMatch(page, /crm/)
})

test('one is retried once, and a second time it says so', async () => {
  const [id = ''] = await refuse('one', 1)
  const page = rowsOf(await lettersPage(/>one</))
  const after = await browser.submit(page, '/dashboard/dead-letters/retry')
  assert.match(after, new RegExp(`class="notice done".*Message ${id} is on its way again`))
  await eventually('it is dead again', async () => (await lettersOf('one')).length === 1)
  await database.query('delete from mail.dead_letter where message_id = $1', [id])
  assert.match(
    await browser.submit(page, '/dashboard/dead-letters/retry'),
    /class="notice nothing".*not a dead letter any more/,
  )
})

test('a group is retried at a pace, and repeating the form does nothing', async () => {
  await failTemplate(2)
  const page = await lettersPage(/template_syntax/)
  const all = /Retry all (\d+) that match/.exec(page)?.[1]
  const form = page.slice(page.indexOf(`Retry all ${all}`))
  const after = await browser.submit(form, '/dashboard/dead-letters/retry', { per_second: '0.5' })
  assert.match(after, new RegExp(`${all} messages retried, 0.5 a second. None that match are left`))
  const [paced] = await database.query<{ spread: number; count: number }>(
    `select count(*)::integer as count, extract(epoch from max(start_after) - min(start_after))::float8 as spread
     from pgboss.job where name = 'process.transactional'`,
  )
  assert.equal(paced?.count, Number(all))
  assert.equal(Math.round(paced?.spread ?? 0), (Number(all) - 1) * 2)
  const again = await browser.submit(form, '/dashboard/dead-letters/retry', { per_second: '0.5' })
  assert.match(again, /class="notice nothing".*0 messages were retried: .* None that match are left/)
})

test('a group is discarded up to the number given, and what is left is said', async () => {
  await refuse('bulk', 5)
  const page = await lettersPage(/>bulk</)
  const form = page.slice(page.indexOf('Discard all 5 that match'))
  const after = await browser.submit(form, '/dashboard/dead-letters/discard', { max: '2' })
  assert.match(after, /2 messages discarded. 3 that match are left/)
  const ids = await lettersOf('bulk')
  assert.equal(ids.length, 3)
  assert.match(
    await browser.submit(rowsOf(after), '/dashboard/dead-letters/discard'),
    /is given up: it is canceled/,
  )
  const rows = await database.query(
    "select 1 from mail.message where status = 'canceled' and source = 'bulk'",
  )
  assert.equal(rows.length, 3)
})

test('what died after the page was loaded is not discarded or retried by it', async () => {
  await refuse('late', 3)
  const page = await lettersPage(/>late</)
  const form = page.slice(page.indexOf('Discard all 3 that match'))
  assert.match(await browser.submit(form, '/dashboard/dead-letters/discard'), /3 messages discarded/)
  const unseen = await refuse('late', 2)
  assert.match(
    await browser.submit(form, '/dashboard/dead-letters/discard'),
    /0 messages were discarded: .* 2 that match are left/,
  )
  const retry = page.slice(page.indexOf('Retry all 3 that match'))
  assert.match(await browser.submit(retry, '/dashboard/dead-letters/retry'), /0 messages were retried/)
  assert.deepEqual(await lettersOf('late'), unseen)
})

test('what is wrong in the form is said beside it, and nothing is done', async () => {
  await refuse('strict', 1)
  const page = await lettersPage(/>strict</)
  const form = page.slice(page.indexOf('Retry the one that matches'))
  for (const [fields, words] of [
    [{ max: '0' }, /Not done:<\/strong> At most: .*0.* is not a whole number from 1/],
    [{ max: 'all' }, /is not a whole number/],
    [{ per_second: '-1' }, /A second: .*-1.* is not a number from 0.001/],
    [{ per_second: 'NaN' }, /is not a number/],
  ] as const) {
    assert.match(await browser.submit(form, '/dashboard/dead-letters/retry', fields), words)
  }
  assert.equal((await lettersOf('strict')).length, 1)
})

test('the list pages through all of them, and goes on where a letter is gone meanwhile', async () => {
  const ids = await refuse('many', 120)
  const first = await browser.page(`${GROUPS}/letters?source=many`)
  const shown = (page: string) =>
    [...page.matchAll(/href="\/dashboard\/messages\/([0-9a-f-]+)"/g)].map(([, id]) => id)
  const older = (page: string) => plain(/href="([^"]*)">Older/.exec(page)?.[1] ?? '')
  assert.deepEqual(shown(first), ids.slice(0, 50))
  await database.query('delete from mail.dead_letter where message_id = $1', [ids[49]])
  const second = await browser.page(older(first))
  const third = await browser.page(older(second))
  assert.deepEqual([...shown(second), ...shown(third)], ids.slice(50))
  assert.match(third, /href="[^"]*letters\?source=many">Newest/)
  assert.doesNotMatch(third, />Older</)
})

test('filters of fields and times narrow the list; a time that is none is said', async () => {
  await refuse('timed', 2)
  const link = (query: string) => `${GROUPS}/letters?source=timed&${query}`
  assert.match(await browser.page(link('since=2020-01-01T00:00')), /2 dead letters/)
  assert.match(await browser.page(link('until=2020-01-01T00:00')), /0 dead letters/)
  assert.match(await browser.page(link('without=template')), /2 dead letters/)
  assert.match(await browser.page(link('without=source&code=nothing')), /0 dead letters/)
  assert.match(await browser.page(link('after=nonsense')), /2 dead letters/)
  assert.match(await browser.page(link('since=yesterday'), 422), /Died since: .* is not a date and time/)
})

test('a notice that nobody signed is not shown', async () => {
  assert.doesNotMatch(await browser.page(`${GROUPS}?notice=done%20All%20is%20well&proof=x`), /All is well/)
})

test('the form of another session does nothing', async () => {
  await refuse('stale', 1)
  const page = await lettersPage(/>stale</)
  const other = openBrowser(service.url ?? '')
  await other.signIn((await createKey(service.db, { name: 'other', scope: 'operate' })).key)
  assert.match(await other.submit(page, '/dashboard/dead-letters/retry', {}, 403), /This page is old/)
  assert.equal((await lettersOf('stale')).length, 1)
  assert.ok(formOf(page, '/dashboard/dead-letters/retry').hidden.form_token)
})
