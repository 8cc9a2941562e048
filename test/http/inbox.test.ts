import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import fc from 'fast-check'
import { Hono } from 'hono'
import { openPool } from '../../src/db/pool.ts'
import { inboxRoutes } from '../../src/http/inbox.ts'
import { countInbox, insertInboxMails, listInbox } from '../../src/inbox/queries.ts'
import { summarise } from '../../src/inbox/summary.ts'
import { createLog } from '../../src/log.ts'
import { createTestDatabase } from '../support/database.ts'
import { startTestService } from '../support/service.ts'

const ID = '01890a5d-ac96-774b-bcce-b302099a8057'
const ATTACK = '<script>alert(1)</script>'
const ESCAPED = '&lt;script&gt;alert(1)&lt;/script&gt;'
const PIXEL = Buffer.from('R0lGODlhAQABAAAAACwAAAAAAQABAAA=', 'base64')

const MIXED_MAIL = [
  `From: "${ATTACK}" <shop@example.com>`,
  'To: =?utf-8?q?J=C3=B6rg?= <joerg@example.com>',
  `Subject: ${ATTACK} order`,
  `X-Sluice-Id: ${ID}`,
  'Content-Type: multipart/mixed; boundary=m',
  '',
  '--m',
  'Content-Type: multipart/alternative; boundary=a',
  '',
  '--a',
  'Content-Type: text/plain; charset=utf-8',
  '',
  `plain ${ATTACK}`,
  '--a',
  'Content-Type: text/html; charset=utf-8',
  '',
  `<p>rich</p>${ATTACK}<img src="cid:pic@x"><a href="https://example.com/reset?a=1&amp;b=2">r</a>` +
    '<a href="javascript:alert(2)">j</a>',
  '--a--',
  '--m',
  'Content-Type: image/gif',
  'Content-ID: <pic@x>',
  'Content-Transfer-Encoding: base64',
  '',
  PIXEL.toString('base64'),
  '--m',
  'Content-Type: text/html; name="x.html"',
  `Content-Disposition: attachment; filename*=utf-8''..%2F%3Cscript%3E%22%0D%0Aevil%E2%80%AE.html`,
  '',
  ATTACK,
  '--m--',
].join('\r\n')

test('the list shows subject, addresses and size, and a script in them as text', async (t) => {
  const { get } = await openInbox(t, [MIXED_MAIL])
  const page = await (await get('/inbox')).text()
  assert.ok(page.includes(`${ESCAPED} order`))
  assert.ok(page.includes('to@example.com'))
  assert.ok(page.includes('1 mail'))
  assert.ok(!page.includes('<script'))
})

test('an empty inbox says so', async (t) => {
  const { get } = await openInbox(t, [])
  assert.match(await (await get('/inbox')).text(), /No mail yet/)
})

test('the list searches, pages and refreshes by itself', async (t) => {
  const { get } = await openInbox(
    t,
    [...Array(55).keys()].map((index) => `Subject: number ${index}\r\n\r\n`),
  )
  const first = await (await get('/inbox')).text()
  assert.ok(first.includes('number 54') && !first.includes('number 4<'))
  const older = /href="\/inbox\?(before=\d+)"/.exec(first)?.[1]
  assert.match(await (await get(`/inbox?${older}`)).text(), /number 4</)
  const found = await (await get('/inbox?q=NUMBER+33')).text()
  assert.ok(found.includes('number 33') && !found.includes('number 34'))
  assert.ok(!first.includes('http-equiv'))
  assert.match(await (await get('/inbox?live=1')).text(), /<meta http-equiv="refresh" content="5">/)
})

test('hostile parameters of the list do no harm', async (t) => {
  const { get } = await openInbox(t, ['Subject: x\r\n\r\n'])
  await fc.assert(
    fc.asyncProperty(fc.string({ unit: 'binary' }), fc.string(), async (search, before) => {
      const parameters = new URLSearchParams({ q: search.toWellFormed(), before })
      assert.equal((await get(`/inbox?${parameters}`)).status, 200)
    }),
    { numRuns: 50 },
  )
  const attack = await (await get(`/inbox?q=${encodeURIComponent(`"><script>`)}`)).text()
  assert.ok(!attack.includes('<script'))
})

test('a mail shows its Sluice id, decoded addresses, attachments and links', async (t) => {
  const { get, ids } = await openInbox(t, [MIXED_MAIL])
  const page = await (await get(`/inbox/${ids[0]}`)).text()
  assert.ok(page.includes(`<code>${ID}</code>`))
  assert.ok(page.includes('Jörg &lt;joerg@example.com&gt;'))
  assert.ok(page.includes(`<iframe sandbox src="/inbox/${ids[0]}/html"`))
  assert.ok(page.includes('href="https://example.com/reset?a=1&amp;b=2"'))
  assert.ok(!page.includes('javascript:'))
  assert.ok(page.includes('image/gif'))
  assert.ok(!page.includes('<script'))
})

test('text, headers and source are shown as text', async (t) => {
  const { get, ids } = await openInbox(t, [MIXED_MAIL])
  for (const view of ['text', 'headers', 'raw']) {
    const page = await (await get(`/inbox/${ids[0]}?view=${view}`)).text()
    assert.ok(page.includes(ESCAPED), view)
    assert.ok(!page.includes('<script'), view)
  }
})

test('a mail with text alone opens on its text', async (t) => {
  const { get, ids } = await openInbox(t, ['Subject: x\r\n\r\nonly words\r\n'])
  const page = await (await get(`/inbox/${ids[0]}`)).text()
  assert.match(page, /<pre dir="auto">only words/)
  assert.ok(!page.includes('<iframe'))
})

test('the HTML part is sandboxed, loads nothing, and carries its own pictures', async (t) => {
  const { get, ids } = await openInbox(t, [MIXED_MAIL])
  const response = await get(`/inbox/${ids[0]}/html`)
  const policy = response.headers.get('content-security-policy') ?? ''
  assert.ok(policy.startsWith("sandbox; default-src 'none'; img-src data: cid:; style-src 'unsafe-inline'"))
  assert.ok(policy.includes("frame-ancestors 'self'"))
  assert.match(response.headers.get('content-type') ?? '', /^text\/html; charset=utf-8/i)
  assert.ok((await response.text()).includes(`data:image/gif;base64,${PIXEL.toString('base64')}`))
})

test('pages allow no script, and their stylesheet by its hash', async (t) => {
  const { get } = await openInbox(t, [])
  const headers = (await get('/inbox')).headers
  assert.match(
    headers.get('content-security-policy') ?? '',
    /^default-src 'none'; style-src 'sha256-[^']+'; frame-src 'self'; form-action 'self'/,
  )
  assert.equal(headers.get('x-content-type-options'), 'nosniff')
  assert.equal(headers.get('cache-control'), 'no-store')
})

test('the raw source is plain text that no browser reads as anything else', async (t) => {
  const { get, ids } = await openInbox(t, [MIXED_MAIL])
  const response = await get(`/inbox/${ids[0]}/raw`)
  assert.equal(response.headers.get('content-type'), 'text/plain; charset=utf-8')
  assert.equal(response.headers.get('x-content-type-options'), 'nosniff')
  assert.equal(await response.text(), MIXED_MAIL)
})

test('an attachment is only ever downloaded, under a harmless name', async (t) => {
  const { get, ids } = await openInbox(t, [MIXED_MAIL])
  const response = await get(`/inbox/${ids[0]}/attachments/1`)
  assert.equal(response.headers.get('content-type'), 'application/octet-stream')
  assert.equal(
    response.headers.get('content-disposition'),
    `attachment; filename="__script__evil.html"; filename*=UTF-8''__script__evil.html`,
  )
  assert.equal((await response.text()).trim(), ATTACK)
  const picture = await get(`/inbox/${ids[0]}/attachments/0`)
  assert.deepEqual(Buffer.from(await picture.arrayBuffer()), PIXEL)
})

test('what is not there is answered 404', async (t) => {
  const { get, ids } = await openInbox(t, [MIXED_MAIL])
  for (const path of ['/inbox/999999', '/inbox/999999/raw', `/inbox/${ids[0]}/attachments/7`, '/inbox/0']) {
    assert.equal((await get(path)).status, 404, path)
  }
})

test('a mail that cannot be taken apart still shows its source', async (t) => {
  const depth = 300
  const nested = Array.from({ length: depth }, (_, index) =>
    [`--b${index - 1}`, `Content-Type: multipart/mixed; boundary=b${index}`, '', ''].join('\r\n'),
  ).join('')
  const { get, ids } = await openInbox(t, [`Subject: deep\r\n${nested.slice(nested.indexOf('Content'))}`])
  const page = await get(`/inbox/${ids[0]}`)
  assert.equal(page.status, 200)
  assert.match(await page.text(), /nested too deeply[\s\S]*boundary=b299/)
  assert.equal((await get(`/inbox/${ids[0]}/html`)).status, 200)
})

test('any bytes of a mail give a page', async (t) => {
  const { db, get } = await openInbox(t, [])
  await fc.assert(
    fc.asyncProperty(
      fc.uint8Array({ maxLength: 300 }),
      fc.constantFrom('html', 'text', 'raw'),
      async (bytes, view) => {
        await store(db, [Buffer.concat([Buffer.from('Content-Type: text/html\r\n'), bytes])])
        const [entry] = (await listInbox(db, { limit: 1 })).entries
        const page = await get(`/inbox/${entry?.id}?view=${view}`)
        assert.equal(page.status, 200)
        assert.ok(!(await page.text()).includes('<script'))
      },
    ),
    { numRuns: 40 },
  )
})

test('clearing deletes every mail and returns to the list', async (t) => {
  const { db, request } = await openInbox(t, ['a', 'b'])
  const response = await request('/inbox/clear', {
    method: 'POST',
    headers: { origin: 'http://localhost:3000', 'sec-fetch-site': 'same-origin' },
  })
  assert.equal(response.status, 303)
  assert.equal(response.headers.get('location'), '/inbox')
  assert.equal(await countInbox(db), 0)
})

test('a form of another site clears nothing', async (t) => {
  const { db, request } = await openInbox(t, ['a'])
  const foreign: Record<string, string>[] = [
    {},
    { origin: 'https://evil.example' },
    { origin: 'null' },
    { origin: 'http://localhost:8080' },
    { 'sec-fetch-site': 'cross-site' },
    { 'sec-fetch-site': 'same-site' },
    { 'sec-fetch-site': 'same-site', origin: 'http://localhost:3000' },
    { 'sec-fetch-site': 'same-origin', origin: 'https://evil.example' },
  ]
  for (const headers of foreign) {
    const response = await request('/inbox/clear', { method: 'POST', headers })
    assert.equal(response.status, 403, JSON.stringify(headers))
  }
  assert.equal(await countInbox(db), 1)
})

test('only this machine gets in, by whatever spelling of its address', async (t) => {
  const { request } = await openInbox(t, [])
  for (const peer of ['127.0.0.1', '127.8.8.8', '::1', '::ffff:127.0.0.1']) {
    assert.equal((await request('/inbox', {}, peer)).status, 200, peer)
  }
  for (const peer of ['192.168.1.7', '::ffff:10.0.0.1', '2001:db8::1', '', null]) {
    const response = await request('/inbox', {}, peer)
    assert.equal(response.status, 403, String(peer))
    assert.match(await response.text(), /only to the machine the service runs on/)
  }
})

test('a name rebound to this machine does not get in', async (t) => {
  const { request } = await openInbox(t, [])
  for (const host of ['localhost', 'LOCALHOST:3000', '127.0.0.1:80', '[::1]:3000']) {
    assert.equal((await request('/inbox', { headers: { host } })).status, 200, host)
  }
  for (const host of [
    'evil.example',
    'localhost.evil.example',
    'evil.example:3000',
    '127.0.0.1.nip.io',
    '0.0.0.0',
    '',
  ]) {
    const response = await request('/inbox', { headers: { host } })
    assert.equal(response.status, 403, host)
    assert.match(await response.text(), /answers only to the host names/)
  }
})

/** An app with the inbox mounted, holding these mails, and a browser on this machine to ask it. */
async function openInbox(t: TestContext, mails: readonly string[]) {
  const { url, beforeDrop } = await createTestDatabase(t)
  const { db, close } = openPool({ url, maxConnections: 2, role: undefined, log: createLog('silent') })
  beforeDrop(close)
  await store(
    db,
    mails.map((mail) => Buffer.from(mail)),
  )
  const { entries } = await listInbox(db, { limit: 100 })

  let peer: string | null = null
  const getConnInfo = () => ({ remote: peer === null ? {} : { address: peer, addressType: undefined } })
  const app = new Hono().route('/inbox', inboxRoutes({ db, getConnInfo }))
  const request = async (path: string, init: RequestInit = {}, from: string | null = '127.0.0.1') => {
    peer = from
    return await app.request(path, { ...init, headers: { host: 'localhost:3000', ...init.headers } })
  }
  return { db, request, get: (path: string) => request(path), ids: entries.map(({ id }) => id) }
}

async function store(db: Parameters<typeof insertInboxMails>[0], mails: readonly Buffer[]): Promise<void> {
  const rows = await Promise.all(
    mails.map(async (raw) => ({
      mailFrom: 'from@example.com',
      recipients: ['to@example.com'],
      ...(await summarise(raw)),
      raw,
    })),
  )
  if (rows.length > 0) await insertInboxMails(db, rows)
}

test('production has no inbox, even with a provider that once was one', async (t) => {
  const database = await createTestDatabase(t)
  await database.query("insert into mail.provider (name, transport) values ('old', 'inbox')")
  const service = await startTestService(database, {
    NODE_ENV: 'production',
    SMTP_URL: 'smtp://127.0.0.1:1',
    SLUICE_ROLES: 'api',
  })
  assert.equal(service.hasInbox, false)
  assert.equal((await service.request('/inbox')).status, 404)
})
