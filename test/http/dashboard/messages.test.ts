import assert from 'node:assert/strict'
import { before, describe, test } from 'node:test'
import { createKey } from '../../../src/keys/keys.ts'
import { createTestDatabase, type TestDatabase } from '../../support/database.ts'
import { eventually } from '../../support/eventually.ts'
import { post, readMessage, untilStatus } from '../../support/messages.ts'
import { startTestService, TEST_KEY, type TestService } from '../../support/service.ts'
import { type Browser, openBrowser, plain } from './browser.ts'

let database: TestDatabase
let service: TestService
/** With a full key, and with one that may only operate. */
let reader: Browser
let operator: Browser

before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  service = await startTestService(database)
  reader = openBrowser(service.url ?? '')
  await reader.signIn(TEST_KEY)
  operator = openBrowser(service.url ?? '')
  await operator.signIn((await createKey(service.db, { name: 'on call', scope: 'operate' })).key)
})

const MESSAGES = '/dashboard/messages'

async function sent(changes: Readonly<Record<string, unknown>>): Promise<string> {
  const id = await post(service, changes)
  await untilStatus(database, id, 'sent')
  return id
}

describe('search', () => {
  test('by our id, the Message-ID, or what a provider calls it, leads to the message', async () => {
    const id = await sent({ to: 'found@example.net' })
    await database.query(
      'insert into mail.provider_ref (message_id, provider, provider_message_id) values ($1, $2, $3)',
      [id, 'default', '0100018f-ses'],
    )
    for (const q of [id, id.toUpperCase(), `<${id}@example.com>`, '<0100018f-ses@eu-west-1.amazonses.com>']) {
      const response = await operator.request(`${MESSAGES}?${new URLSearchParams({ q })}`)
      assert.deepEqual([response.status, response.headers.get('Location')], [303, `${MESSAGES}/${id}`], q)
    }
    const unknown = '01890a5d-ac96-774b-bcce-b302099a8057'
    assert.match(await operator.page(`${MESSAGES}?q=${unknown}`, 422), /No message has this id/)
    assert.match(await operator.page(`${MESSAGES}?q=nothing+like+that`, 422), /No message has this id/)
  })

  test('by address, tag, state, stream and time', async () => {
    const id = await sent({ to: 'Ann <Search@Example.net>', tags: [{ name: 'kind', value: 'receipt' }] })
    const later = await post(service, { to: 'search@example.net', scheduled_at: 'in 1 day' })
    for (const [query, expected] of [
      ['q=search@example.net', [later, id]],
      ['q=SEARCH@example.net&state=sent', [id]],
      ['tag=kind', [id]],
      ['tag=kind:receipt', [id]],
      ['q=search@example.net&state=scheduled', [later]],
      ['q=search@example.net&stream=marketing', []],
      ['q=search@example.net&since=2020-01-01T00:00', [later, id]],
      ['q=search@example.net&until=2020-01-01T00:00', []],
    ] as const) {
      const ids = async () => {
        const page = await operator.page(`${MESSAGES}?${query}`)
        return [...page.matchAll(/\/dashboard\/messages\/([0-9a-f-]{36})/g)].map(([, found]) => found)
      }
      await eventually(query, async () => JSON.stringify(await ids()) === JSON.stringify(expected))
    }
  })

  test('pages go on from the last one shown', async () => {
    const ids: string[] = []
    for (let n = 0; n < 60; n += 1) ids.push(await post(service, { to: 'pages@example.net' }))
    await untilStatus(database, ids.at(-1) ?? '', 'sent')
    const first = await operator.page(`${MESSAGES}?q=pages@example.net`)
    const older = plain(/href="([^"]*)">Older/.exec(first)?.[1] ?? '')
    const second = await operator.page(older)
    const shown = (page: string) => [...page.matchAll(/messages\/([0-9a-f-]{36})"/g)].map(([, id]) => id)
    assert.deepEqual(new Set([...shown(first), ...shown(second)]), new Set(ids))
    assert.match(second, />Newest</)
  })

  test('what cannot be searched for is said above the fields, which keep what was typed', async () => {
    for (const [query, words] of [
      ['after=01890a5d-ac96-774b-bcce-b302099a8057', /is not the id of an email/],
      ['state=flying', /Invalid `status`/],
      ['stream=NO', /cannot be the name of a stream/],
      ['tag=%3Cb%3E', /cannot be a tag/],
      ['since=tomorrow', /Accepted since/],
      ['q=a%00b%FF%ED%A0%80', /No message has this id/],
      [`q=${'x'.repeat(5_000)}`, /No message has this id/],
    ] as const) {
      const page = await operator.page(`${MESSAGES}?${query}`, 422)
      assert.match(page, words, query)
      assert.match(page, /role="search"/)
    }
  })
})

describe('the page of a message', () => {
  test('says where it stands, why, and what happened, to a key that may operate; but not what is in it', async () => {
    const id = await sent({
      to: 'why@example.net',
      subject: 'Secret subject',
      html: '<p>Secret body</p>',
      metadata: { order: 'Secret-77' },
    })
    const page = await operator.page(`${MESSAGES}/${id}`)
    assert.match(page, /class="state good">sent/)
    assert.match(page, /Not waiting: provider default accepted it/)
    assert.match(page, /why@example\.net/)
    const types = [...page.matchAll(/<li>\s*<span>.*?<strong>([^<]+)/gs)].map(([, type]) => type)
    assert.equal(types[0], 'accepted')
    assert.equal(types.at(-1), 'sent')
    assert.doesNotMatch(page, /Secret|<iframe/)
    assert.match(page, /shown to keys of scope/)
    assert.match(await operator.page(`${MESSAGES}/${id}/html`, 403), /shown to keys of scope full/)
    const list = await operator.page(`${MESSAGES}?q=why@example.net`)
    assert.doesNotMatch(list, /Secret/)
  })

  test('shows a full key the bodies: text as text, HTML in a frame that runs and loads nothing', async () => {
    const id = await sent({
      to: 'body@example.net',
      subject: 'A subject',
      html: '<p>Rich</p><script>1</script>',
      text: 'Plain <b>',
    })
    const page = await reader.page(`${MESSAGES}/${id}`)
    assert.match(page, /A subject/)
    assert.match(page, /<pre[^>]*>Plain &lt;b&gt;/)
    assert.match(page, new RegExp(`<iframe sandbox src="${MESSAGES}/${id}/html"`))
    const frame = await reader.request(`${MESSAGES}/${id}/html`)
    assert.match(frame.headers.get('Content-Security-Policy') ?? '', /^sandbox; default-src 'none'/)
    assert.equal(frame.headers.get('Cache-Control'), 'no-store')
    assert.match(await frame.text(), /<p>Rich<\/p>/)
  })

  test('what is in a sensitive one is withheld from everybody', async () => {
    const id = await sent({ to: 'code@example.net', subject: 'Code 1234', html: '<p>1234</p>', text: '1234' })
    await database.query(
      'alter table mail.message add column if not exists is_sensitive boolean not null default false',
    )
    await database.query('update mail.message set is_sensitive = true where id = $1', [id])
    const page = await reader.page(`${MESSAGES}/${id}`)
    assert.match(page, /Withheld:<\/strong>/)
    assert.doesNotMatch(page, /Code 1234|<iframe|<pre/)
    assert.match(await reader.page(`${MESSAGES}/${id}/html`, 404), /is not shown/)
  })

  test('one that waits is given another time, and canceled; a second time says what came first', async () => {
    const id = await post(service, { to: 'wait@example.net', scheduled_at: 'in 2 hours' })
    await untilStatus(database, id, 'scheduled')
    const page = await operator.page(`${MESSAGES}/${id}`)
    const moved = await operator.submit(page, `${MESSAGES}/${id}/reschedule`, { at: 'in 3 hours' })
    assert.match(moved, /class="notice done".*It has another time/)
    assert.match(
      await operator.submit(page, `${MESSAGES}/${id}/reschedule`, { at: 'some day' }),
      /Not done:<\/strong> Send it:/,
    )
    assert.match(await operator.submit(page, `${MESSAGES}/${id}/cancel`), /It is canceled/)
    assert.equal((await readMessage(database, id))?.status, 'canceled')
    assert.match(await operator.submit(page, `${MESSAGES}/${id}/cancel`), /It is canceled/)
    assert.match(
      await operator.submit(page, `${MESSAGES}/${id}/reschedule`, { at: 'in 3 hours' }),
      /class="notice nothing".*can no longer be scheduled: it is canceled/,
    )
  })

  test('one whose outcome nobody knows is settled by a person', async () => {
    for (const [as, words, status] of [
      ['sent', /It counts as sent/, 'sent'],
      ['retry', /It is on its way again/, undefined],
    ] as const) {
      const id = await sent({ to: 'unknown@example.net' })
      await database.query(
        "update mail.message set status = 'unknown', last_error = 'no_answer' where id = $1",
        [id],
      )
      const page = await operator.page(`${MESSAGES}/${id}`)
      assert.match(page, /Nobody can know whether/)
      assert.match(
        await operator.submit(page, `${MESSAGES}/${id}/settle`, { as: 'lost' }),
        /Say whether it was sent/,
      )
      assert.match(await operator.submit(page, `${MESSAGES}/${id}/settle`, { as }), words)
      if (status !== undefined) assert.equal((await readMessage(database, id))?.status, status)
      const again = await operator.submit(page, `${MESSAGES}/${id}/settle`, { as })
      assert.match(again, /Its outcome is known already/)
    }
  })

  test('a dead one is given up on its own page, which says so', async () => {
    await database.query(
      `insert into mail.outbox (message) values ('{"from":"a@example.com","to":"no address","text":"x"}')`,
    )
    const id = await eventually('it died', async () => {
      const rows = await database.query<{ message_id: string }>('select message_id from mail.dead_letter')
      return rows[0]?.message_id
    })
    const page = await reader.page(`${MESSAGES}/${id}`)
    assert.match(page, /Dead since .*: failed in intake/)
    assert.match(page, /&quot;no address&quot;/)
    const after = await reader.submit(page, '/dashboard/dead-letters/discard')
    assert.match(after, new RegExp(`<h1[^>]*>Message ${id}`))
    assert.match(after, /is given up: it is canceled/)
  })

  test('an id that nobody has, or that is none, is said in a page', async () => {
    for (const id of ['01890a5d-ac96-774b-bcce-b302099a8057', 'x', '%00']) {
      assert.match(await reader.page(`${MESSAGES}/${id}`, 404), /<h1[^>]*>Not found/)
    }
  })
})
