/** Where secrets do not show: in the database, the log, errors, pages, arguments, and what other sessions see. */
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { test } from 'node:test'
import { openBrowser } from '../http/dashboard/browser.ts'
import { tablesWith } from '../support/canary.ts'
import { createTestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { orderMail, spawnService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'

const newWord = () => `canary${randomBytes(12).toString('hex')}`

test('a service that logs all it can, and is used rightly and wrongly, keeps every secret to itself', async (t) => {
  const database = await createTestDatabase(t)
  const secrets = {
    bootstrap: newWord(),
    relay: newWord(),
    wrongRelay: newWord(),
    webhook: newWord(),
    credential: newWord(),
    wrongKey: newWord(),
    encryption: randomBytes(32),
  }
  const sink = await startSmtpSink(t, { auth: { user: 'sluice', pass: secrets.relay } })
  const host = new URL(sink.url).host
  await database.query(
    `insert into mail.provider (name, transport, credentials_env) values
       ('broken', 'smtp', 'BROKEN_URL'), ('named', 'postmark', 'POSTMARK_TOKEN');
     insert into mail.stream (name, route) values ('broken', '{broken}'), ('named', '{named}');
     update mail.provider set base_url = 'http://127.0.0.1:1' where name = 'named';
     insert into mail.webhook_source (name, kind, secrets_env) values ('shop', 'postmark', 'SHOP_LOGIN')`,
  )
  const service = await spawnService(t, database.url, {
    LOG_LEVEL: 'trace',
    SLUICE_API_KEY: secrets.bootstrap,
    SMTP_URL: `smtp://sluice:${secrets.relay}@${host}?tls=none`,
    BROKEN_URL: `smtp://sluice:${secrets.wrongRelay}@${host}?tls=none`,
    POSTMARK_TOKEN: secrets.credential,
    SHOP_LOGIN: `shop:${secrets.webhook}`,
    SLUICE_ENCRYPTION_KEYS: `canary:${secrets.encryption.toString('base64')}`,
  })
  const headers = { Authorization: `Bearer ${secrets.bootstrap}` }
  const answers: string[] = []
  const ask = async (path: string, options: Parameters<typeof service.request>[1] = {}) => {
    const response = await service.request(path, { headers, ...options })
    const body = await response.text()
    answers.push(`${body} ${JSON.stringify([...response.headers])}`)
    return body
  }
  for (const stream of ['transactional', 'broken', 'named'])
    await ask('/emails', { body: orderMail({ stream }) })
  await ask('/emails', { body: orderMail({ sensitive: true }) })
  await ask('/emails', { headers: { Authorization: `Bearer ${secrets.wrongKey}` } })
  await ask(`/emails?api_key=${secrets.wrongKey}`, {
    headers: { Authorization: `Basic ${secrets.bootstrap}` },
  })
  const login = (password: string) => `Basic ${Buffer.from(`shop:${password}`).toString('base64')}`
  for (const password of [secrets.webhook, secrets.wrongKey]) {
    await ask('/webhooks/postmark/shop', {
      body: { RecordType: 'Delivery' },
      headers: { Authorization: login(password) },
    })
  }
  const made = JSON.parse(await ask('/api-keys', { body: { name: 'made', scope: 'full' } })) as {
    token?: string
    key?: string
  }
  const token = made.token ?? made.key ?? ''
  assert.match(token, /^sluice_/)
  answers.pop()
  await ask('/api-keys', { headers: { Authorization: `Bearer ${token}` } })
  const hook = JSON.parse(
    await ask('/webhooks', { body: { endpoint: 'https://example.com/hook', events: ['email.sent'] } }),
  ) as { signing_secret?: string }
  answers.pop()
  const browser = openBrowser(service.url)
  await browser.signIn(token)
  for (const path of [
    '/',
    '/dashboard/providers',
    '/dashboard/providers/broken',
    '/dashboard/streams',
    '/dashboard/messages',
    '/dashboard/processes',
    '/inbox',
    '/metrics',
    '/docs',
    '/openapi.json',
  ]) {
    answers.push(`${await (await browser.request(path)).text()}`)
  }
  await eventually('two were sent, and the other two have failed', async () => {
    const rows = await database.query<{ stream: string; status: string; last_error: string | null }>(
      'select stream, status, last_error from mail.message',
    )
    const isSent = rows.filter(({ status }) => status === 'sent').length === 2
    const failed = rows.filter(
      ({ stream, last_error: error }) => stream !== 'transactional' && error !== null,
    )
    return isSent && failed.length === 2
  })
  answers.push(await ask('/providers'))
  const words = [
    ...Object.values(secrets).map((secret) =>
      typeof secret === 'string' ? secret : secret.toString('base64'),
    ),
    token.slice(token.lastIndexOf('_') + 1),
    browser.cookie.slice(browser.cookie.indexOf('=') + 1),
    ...(hook.signing_secret === undefined ? [] : [hook.signing_secret]),
    decodeURIComponent(new URL(database.url).password),
  ].filter((word) => word !== '')
  const statements = await database.query<{ query: string }>(
    'select query from pg_stat_activity where pid <> pg_backend_pid()',
  )
  const places = {
    log: service.output(),
    answers: answers.join('\n'),
    'what other sessions see': statements.map(({ query }) => query).join('\n'),
    arguments: await readFile(`/proc/${service.pid}/cmdline`, 'utf8'),
  }
  for (const word of words) {
    for (const [place, content] of Object.entries(places))
      assert.equal(around(content, word), undefined, place)
    // Endpoints are signed to with theirs; it is in a table of its own, which no role but the service reads.
    const expected = word === hook.signing_secret ? ['mail.webhook_secret'] : []
    assert.deepEqual(await tablesWith(database, word.replace(/^whsec_/, '')), expected, word)
  }
  assert.ok(words.length >= 9)
})

function around(content: string, word: string): string | undefined {
  const at = content.indexOf(word)
  return at === -1 ? undefined : content.slice(Math.max(0, at - 80), at + 20)
}
