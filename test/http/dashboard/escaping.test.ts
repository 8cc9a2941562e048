import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import { createKey } from '../../../src/keys/keys.ts'
import { createTestDatabase, type TestDatabase } from '../../support/database.ts'
import { eventually } from '../../support/eventually.ts'
import { post, untilStatus } from '../../support/messages.ts'
import { startTestService, type TestService } from '../../support/service.ts'
import { type Browser, openBrowser, plain } from './browser.ts'

/** Ends an attribute, a tag, a comment, a script; begins each; and overrides the direction of text. */
const ATTACK = `"'><script>alert(1)</script><img src=x onerror=alert(2)>--></title></style>\u202e&amp;{{7*7}}`
/** Pieces that a page of ours never holds. */
const RAW = /<script>alert|<img src=x|onerror=alert\(2\)>|&amp;\{\{(?!7)/

let database: TestDatabase
let service: TestService
let browser: Browser
let letterId: string

before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  service = await startTestService(database)
  const { key } = await createKey(service.db, { name: ATTACK, scope: 'full' })
  browser = openBrowser(service.url ?? '')
  await browser.signIn(key)
  await seed()
})

/** Wherever a stranger's words are stored, these. */
async function seed(): Promise<void> {
  const id = await post(service, {
    from: `"${ATTACK.replace(/["\\]/g, '\\$&')}" <shop@example.com>`,
    to: [`"${ATTACK.replace(/["\\]/g, '\\$&')}" <ann@example.net>`],
    subject: ATTACK,
    html: `<p>${ATTACK}</p>`,
    text: ATTACK,
    metadata: { note: ATTACK },
    attachments: [{ filename: `${ATTACK.replaceAll('/', '')}.txt`, content: 'eA==' }],
  })
  await untilStatus(database, id, 'sent')
  await database.query(
    `update mail.message set provider_message_id = $2, source = $2, template = $2, last_error = $2 where id = $1`,
    [id, ATTACK],
  )
  await database.query(
    `insert into mail.event (message_id, type, recipient, detail) values ($1, $2, $2, json_build_object($2::text, $2::text, 'reply', $2::text))`,
    [id, ATTACK],
  )
  await database.query(
    `insert into mail.outbox (message, source) values (json_build_object('from', $1::text, 'to', $1::text, 'subject', $1::text), $1)`,
    [ATTACK],
  )
  letterId = await eventually('a dead letter', async () => {
    const rows = await database.query<{ message_id: string }>('select message_id from mail.dead_letter')
    return rows[0]?.message_id
  })
  await database.query(
    `update mail.dead_letter set code = $1, reason = $1, template = $1, provider = $1, recipient_domain = $1`,
    [ATTACK],
  )
  await database.query(
    `insert into mail.suppression (address, origin, reason, source, evidence)
     values ('ann@example.net', 'bounce', $1, $1, jsonb_build_object($1::text, $1::text, 'message_id', $1::text))`,
    [ATTACK],
  )
  const made = await service.request('/templates', {
    body: {
      name: ATTACK,
      subject: ATTACK.replace('{{7*7}}', ''),
      html: `<p>${ATTACK.replace('{{7*7}}', '')}</p>`,
      text: 'x',
    },
  })
  assert.equal(made.status, 200, await made.clone().text())
}

test('words of strangers are shown as text on every page that links lead to', async () => {
  const seen = new Set<string>()
  const waiting = ['/', `/dashboard/messages?q=ann@example.net`, `/dashboard/messages/${letterId}`]
  let shown = 0
  for (let path = waiting.pop(); path !== undefined; path = waiting.pop()) {
    if (seen.has(path)) continue
    seen.add(path)
    const response = await browser.request(path)
    const type = response.headers.get('Content-Type') ?? ''
    if (!type.startsWith('text/html')) continue
    const page = await response.text()
    assert.ok(response.status < 500, `${path}: ${response.status}`)
    checkPage(path, page)
    if (page.includes('&lt;script&gt;alert(1)')) shown += 1
    for (const [, href = ''] of page.matchAll(/href="(\/[^"]*)"/g)) {
      const target = plain(href).replace(/#.*/, '')
      if (/^\/(?:dashboard\/(?!assets)|$)/.test(target)) waiting.push(target)
    }
  }
  assert.ok(seen.size >= 8, [...seen].join('\n'))
  assert.ok(shown >= 6, `only ${shown} pages showed it`)
})

test('words that are searched for are shown as text', async () => {
  const given = encodeURIComponent(ATTACK)
  for (const path of [
    `/dashboard/messages?q=${given}&tag=${given}&state=${given}&stream=${given}&since=${given}&after=${given}`,
    `/dashboard/messages?tag=${given}`,
    `/dashboard/messages?since=${given}`,
    `/dashboard/messages/${given}`,
    `/dashboard/suppressions?q=${given}&origin=${given}&scope=${given}&after=${given}`,
    `/dashboard/dead-letters/letters?code=${given}&source=${given}&without=${given}`,
    `/dashboard/dead-letters/letters?since=${given}`,
    `/dashboard/templates/${given}`,
    `/dashboard/templates?after=${given}`,
    `/dashboard/${given}`,
    `/?notice=${given}&proof=${given}`,
    `/login?next=${given}`,
  ]) {
    const response = await browser.request(path)
    assert.ok(response.status < 500, path)
    checkPage(path, await response.text())
  }
})

test('words that a form brings back are shown as text', async () => {
  const page = await browser.page('/dashboard/suppressions')
  checkPage(
    'add',
    await browser.submit(page, '/dashboard/suppressions/add', { address: ATTACK, scope: ATTACK }),
  )
  const letters = await browser.page('/dashboard/dead-letters/letters')
  const forms = letters.slice(letters.indexOf('Retry the one that matches'))
  checkPage('retry', await browser.submit(forms, '/dashboard/dead-letters/retry', { max: ATTACK }))
  const message = await browser.page(`/dashboard/messages/${letterId}`)
  checkPage('discard', await browser.submit(message, '/dashboard/dead-letters/discard', { back: ATTACK }))
})

function checkPage(path: string, page: string): void {
  assert.doesNotMatch(page, RAW, path)
  assert.doesNotMatch(page, /<style|\sstyle=|\son\w+="|javascript:/i, path)
  for (const [script] of page.matchAll(/<script[^>]*>/g))
    assert.match(script, /src="\/dashboard\/assets\//, path)
}
