import assert from 'node:assert/strict'
import { randomUUIDv7 } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { describe, type TestContext, test } from 'node:test'
import { STANDARD_SECRET, standardCall } from '../feedback/proofs.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { deadLetterOf, untilStatus } from '../support/messages.ts'
import { startTestService, type TestService } from '../support/service.ts'
import { type SmtpSink, startSmtpSink } from '../support/smtp-sink.ts'
import { sluiceIdOf } from '../support/sunk-mail.ts'
import { startWebhookReceiver } from '../support/webhook-receiver.ts'
import { ENCRYPTION_KEY, newCanary, secretMail, tablesWith } from './canary.ts'

type Open = { database: TestDatabase; service: TestService; sink: SmtpSink }

/** `first` runs before any worker does. */
async function open(
  t: TestContext,
  environment: Readonly<Record<string, string>> = {},
  first = 'select 1',
): Promise<Open> {
  const database = await createTestDatabase(t)
  await database.query(first)
  const sink = await startSmtpSink(t, { onMail: ({ raw }) => refusalOf(raw) })
  const service = await startTestService(database, {
    SMTP_URL: sink.url,
    SLUICE_ENCRYPTION_KEYS: ENCRYPTION_KEY,
    ...environment,
  })
  return { database, service, sink }
}

/** A relay that quotes the mail it refuses. */
function refusalOf(raw: Buffer) {
  const text = raw.toString('latin1')
  if (!text.includes('refuse@example.net')) return undefined
  const quoted = /^Subject: (.*)$/m.exec(text)?.[1]?.trim()
  return { code: 550, text: `5.7.1 looks like spam: ${quoted}` }
}

async function idOf(response: Response): Promise<string> {
  const answer = (await response.json()) as { id?: string; data?: { id: string }[] }
  assert.equal(response.status, 200, JSON.stringify(answer))
  return answer.id ?? answer.data?.[0]?.id ?? ''
}

async function insertInto({ database }: Open, door: string, message: object): Promise<string> {
  const id = randomUUIDv7()
  await database.query(`insert into ${door} (id, message) values ($1, $2)`, [id, JSON.stringify(message)])
  return id
}

async function sealedOf({ database }: Open, id: string) {
  const [row] = await database.query<{ content: string | null; prepared: string | null }>(
    `select c.sealed as content, p.sealed as prepared
     from mail.message_content c left join mail.message_prepared p using (id) where c.id = $1`,
    [id],
  )
  return row
}

async function shown({ service }: Open, id: string): Promise<Record<string, unknown>> {
  const response = await service.request(`/emails/${id}`)
  return (await response.json()) as Record<string, unknown>
}

function mailOf({ sink }: Open, id: string): string {
  const raw = sink.mails.find((each) => sluiceIdOf(each) === id)?.raw.toString('latin1') ?? ''
  // Soft line breaks of quoted-printable may part the canary.
  return raw.replaceAll('=\r\n', '')
}

async function publish({ service }: Open, name: string, html: string): Promise<void> {
  for (const [path, body] of [
    ['/templates', { name, subject: 'Code {{ code }}', html }],
    [`/templates/${name}/publish`, {}],
  ] as const) {
    const response = await service.request(path, { body })
    assert.ok(response.ok, await response.text())
  }
}

const templateMail = (id: string, variables: object) => ({
  from: 'shop@example.com',
  to: 'ann@example.net',
  sensitive: true,
  template: { id, variables },
})

const DOORS: Readonly<Record<string, (open: Open, canary: string) => Promise<string>>> = {
  'POST /emails': async ({ service }, canary) =>
    idOf(await service.request('/emails', { body: secretMail(canary) })),
  'POST /emails with a key': async ({ service }, canary) =>
    idOf(
      await service.request('/emails', {
        body: secretMail(canary),
        headers: { 'Idempotency-Key': randomUUIDv7() },
      }),
    ),
  'POST /emails/batch': async ({ service }, canary) =>
    idOf(
      await service.request('/emails/batch', {
        body: [secretMail(canary)],
        headers: { 'Idempotency-Key': randomUUIDv7() },
      }),
    ),
  'POST /emails/bulk': async ({ service }, canary) => {
    const { to, ...message } = secretMail(canary, { stream: 'transactional' })
    return idOf(await service.request('/emails/bulk', { body: { message, recipients: [{ to }, { to }] } }))
  },
  'mail.outbox': (open, canary) => insertInto(open, 'mail.outbox', secretMail(canary)),
  'mail.intake': (open, canary) => insertInto(open, 'mail.intake', secretMail(canary)),
  'mail.send': async ({ database }, canary) => {
    const [row] = await database.query<{ id: string }>('select mail.send($1::jsonb) as id', [
      JSON.stringify(secretMail(canary)),
    ])
    return row?.id ?? ''
  },
}

test('while it waits and once it is sent, nothing secret of it is in any column, whichever door it came by', async (t) => {
  const opened = await open(t, {}, "select mail.pause('transactional', 'stream')")
  const { database } = opened
  const handedIn: { door: string; id: string; canary: string }[] = []
  for (const [door, handIn] of Object.entries(DOORS)) {
    const canary = newCanary()
    const id = await handIn(opened, canary)
    handedIn.push({ door, id, canary })
    await untilStatus(database, id, 'queued')
    assert.deepEqual(await tablesWith(database, canary), [], door)
  }
  await database.query("select mail.resume('transactional', 'stream')")
  for (const { door, id, canary } of handedIn) {
    await untilStatus(database, id, 'sent')
    const mail = mailOf(opened, id)
    const bytes = Buffer.from(`bytes ${canary}`).toString('base64')
    for (const part of [`code ${canary}`, `X-Note: ${canary}`, `<p>${canary}</p>`, `${canary}.txt`, bytes]) {
      assert.ok(mail.includes(part), `${door}: the mail has no ${part}:\n${mail}`)
    }
    assert.deepEqual(await tablesWith(database, canary), [], door)
    assert.deepEqual(await sealedOf(opened, id), { content: null, prepared: null }, door)
  }
})

test('it is shown by its addresses and tags alone, and says that it is sensitive', async (t) => {
  const opened = await open(t)
  const canary = newCanary()
  const id = await idOf(
    await opened.service.request('/emails', { body: secretMail(canary, { scheduled_at: 'in 1 hour' }) }),
  )
  const email = await shown(opened, id)
  const list = await (await opened.service.request('/emails')).text()
  const [row] = await opened.database.query<{ said: string }>('select mail.why($1) as said', [id])
  for (const text of [JSON.stringify(email), list, row?.said ?? '']) assert.ok(!text.includes(canary), text)
  assert.deepEqual(
    [email.sensitive, email.subject, email.html, email.text, email.attachments, email.to, email.tags],
    [true, null, null, null, [], ['ann@example.net'], [{ name: 'kind', value: 'reset' }]],
  )
  assert.equal((JSON.parse(list) as { data: { sensitive: boolean }[] }).data[0]?.sensitive, true)
})

test('a stream can make all of its mail sensitive, whatever the message says; a canceled one is forgotten', async (t) => {
  const opened = await open(t)
  const { service, database } = opened
  const made = await service.request('/streams/resets', { method: 'PUT', body: { is_sensitive: true } })
  assert.equal(made.status, 200)
  const canary = newCanary()
  const body = secretMail(canary, { sensitive: false, stream: 'resets', scheduled_at: 'in 1 hour' })
  const id = await eventually('the stream is known', async () => {
    const response = await service.request('/emails', { body })
    return response.status === 200 && idOf(response)
  })
  assert.deepEqual(await tablesWith(database, canary), [])
  assert.equal((await shown(opened, id)).sensitive, true)
  assert.notEqual((await sealedOf(opened, id))?.content, null)
  assert.equal((await service.request(`/emails/${id}/cancel`, { method: 'POST' })).status, 200)
  assert.deepEqual(await sealedOf(opened, id), { content: null, prepared: null })
})

test('a repeat under a key is the first message, over REST, in a batch and in a bulk; another body is refused', async (t) => {
  const { service } = await open(t)
  const canary = newCanary()
  const { to, ...message } = secretMail(canary)
  const calls: [string, object, object][] = [
    ['/emails', secretMail(canary), secretMail(newCanary())],
    ['/emails/batch', [secretMail(canary)], [secretMail(newCanary())]],
    [
      '/emails/bulk',
      { message, recipients: [{ to }] },
      { message: { ...message, subject: newCanary() }, recipients: [{ to }] },
    ],
  ]
  for (const [path, body, other] of calls) {
    const headers = { 'Idempotency-Key': randomUUIDv7() }
    const first = await idOf(await service.request(path, { body, headers }))
    const again = await service.request(path, { body, headers })
    assert.equal(again.headers.get('Idempotent-Replayed'), 'true', path)
    assert.equal(await idOf(again), first, path)
    assert.equal((await service.request(path, { body: other, headers })).status, 409, path)
  }
})

test('templates are rendered from sealed data; one that fails is a dead letter without its words, and can be retried', async (t) => {
  const opened = await open(t)
  const { service, database } = opened
  await publish(opened, 'good', '<p>Code {{ code }}</p>')
  await publish(opened, 'bad', '{% for each in (1..code) %}{{ each }}{% endfor %}{{ code | date: code }}')
  const canary = newCanary()
  const send = async (id: string, variables: object) =>
    idOf(await service.request('/emails', { body: templateMail(id, variables) }))
  const good = await send('good', { code: canary })
  await untilStatus(database, good, 'sent')
  assert.ok(mailOf(opened, good).includes(`<p>Code ${canary}</p>`))

  const bad = await send('good', { code: `line\n${canary}` })
  const letter = await deadLetterOf(database, bad)
  assert.equal(letter.code, 'output_invalid')
  assert.match(letter.reason, /not kept/)
  assert.deepEqual(await tablesWith(database, canary), [])
  assert.notEqual((await sealedOf(opened, bad))?.content, null)
  const draft = await service.request('/templates/good', { method: 'PATCH', body: { subject: 'Your code' } })
  assert.ok(draft.ok, await draft.text())
  await service.request('/templates/good/publish', { body: {} })
  await database.query('select mail.dlq_retry($1::uuid)', [bad])
  await untilStatus(database, bad, 'sent')
  assert.ok(mailOf(opened, bad).includes(canary))
  assert.deepEqual(await sealedOf(opened, bad), { content: null, prepared: null })
})

test('a relay that quotes what it refuses is heard by its codes alone, wherever it is told', async (t) => {
  const receiver = await startWebhookReceiver(t)
  const opened = await open(t, { SLUICE_WEBHOOK_HOSTS: receiver.host })
  const { service, database } = opened
  const hook = await service.request('/webhooks', {
    body: { endpoint: receiver.url, events: ['email.failed'] },
  })
  assert.ok(hook.ok, await hook.text())
  const canary = newCanary()
  const id = await idOf(
    await service.request('/emails', { body: secretMail(canary, { to: 'refuse@example.net' }) }),
  )
  const letter = await deadLetterOf(database, id)
  assert.match(letter.reason, /550 5\.7\.1.*not kept/)
  const [told] = await receiver.waitFor(1)
  assert.equal(told?.event.data.subject, null)
  const [row] = await database.query<{ said: string }>('select mail.why($1) as said', [id])
  for (const text of [told?.body, row?.said, JSON.stringify(await shown(opened, id))]) {
    assert.ok(!text?.includes(canary), text)
  }
  assert.deepEqual(await tablesWith(database, canary), [])
  assert.notEqual((await sealedOf(opened, id))?.content, null)
  await database.query('select mail.dlq_discard($1::uuid)', [id])
  assert.deepEqual(await sealedOf(opened, id), { content: null, prepared: null })
})

test('what a provider tells afterwards is kept without its words and links', async (t) => {
  const opened = await open(t, { MTA_WEBHOOK_SECRET: STANDARD_SECRET })
  const { service, database } = opened
  await database.query(
    "insert into mail.webhook_source (name, kind, secrets_env) values ('mta', 'generic', 'MTA_WEBHOOK_SECRET')",
  )
  const canary = newCanary()
  const id = await idOf(await service.request('/emails', { body: secretMail(canary) }))
  await untilStatus(database, id, 'sent')
  const events = [
    {
      type: 'clicked',
      sluice_id: id,
      recipient: 'ann@example.net',
      detail: { url: `https://example.com/${canary}` },
    },
    {
      type: 'bounced',
      sluice_id: id,
      recipient: 'ann@example.net',
      bounce: { kind: 'hard', code: '5.1.1', reason: `refused: ${canary}` },
    },
  ]
  const { headers, body } = standardCall(JSON.stringify({ events }), Date.now())
  const response = await fetch(new URL('/webhooks/generic/mta', service.url), {
    method: 'POST',
    headers,
    body: new Uint8Array(body),
  })
  assert.equal(response.status, 200)
  await untilStatus(database, id, 'bounced')
  await eventually('it is applied', async () => {
    const [row] = await database.query<{ state: string }>('select state from mail.feedback')
    return row?.state === 'applied'
  })
  assert.deepEqual(await tablesWith(database, canary), [])
  const [suppressed] = await database.query<{ reason: string }>('select reason from mail.suppression')
  assert.match(suppressed?.reason ?? '', /5\.1\.1/)
})

describe('a row of SQL that cannot be used', () => {
  test('is a dead letter that tells nothing, keeps its words sealed, and can be retried', async (t) => {
    const opened = await open(t)
    const { database } = opened
    const canary = newCanary()
    const id = await insertInto(
      opened,
      'mail.outbox',
      secretMail(canary, { attachments: [{ filename: `a/${canary}` }] }),
    )
    const letter = await deadLetterOf(database, id)
    assert.deepEqual([letter.stage, letter.code], ['intake', 'invalid_attachment'])
    assert.match(letter.reason, /^Invalid `attachments`;/)
    assert.deepEqual(await tablesWith(database, canary), [])

    const unknown = await insertInto(opened, 'mail.outbox', secretMail(canary, { stream: 'later' }))
    assert.equal((await deadLetterOf(database, unknown)).code, 'unknown_stream')
    assert.deepEqual(await tablesWith(database, canary), [])
    await database.query("insert into mail.stream (name) values ('later')")
    await database.query('select mail.dlq_retry($1::uuid)', [unknown])
    await untilStatus(database, unknown, 'sent')
    assert.ok(mailOf(opened, unknown).includes(`Your code ${canary}`))
    assert.ok(mailOf(opened, unknown).includes(Buffer.from(`bytes ${canary}`).toString('base64')))
    assert.deepEqual(await sealedOf(opened, unknown), { content: null, prepared: null })
  })

  test('is refused when it names bytes of mail.attach, which are not encrypted', async (t) => {
    const opened = await open(t)
    const [stored] = await opened.database.query<{ sha256: string }>("select mail.attach('plain') as sha256")
    const id = await insertInto(
      opened,
      'mail.outbox',
      secretMail(newCanary(), { attachments: [{ filename: 'a.txt', sha256: stored?.sha256 }] }),
    )
    assert.equal((await deadLetterOf(opened.database, id)).code, 'invalid_attachment')
  })

  test('only looks like one that was sealed', async (t) => {
    const opened = await open(t)
    const id = await insertInto(opened, 'mail.outbox', {
      to: 'ann@example.net',
      sealed: 's1.content.test-key.AAAA',
    })
    assert.equal((await deadLetterOf(opened.database, id)).code, 'content_damaged')
  })
})

test('without a key REST refuses it and says what to do; of an SQL row nothing is kept but the reason', async (t) => {
  const opened = await open(t, { SLUICE_ENCRYPTION_KEYS: '' })
  const { service, database } = opened
  const canary = newCanary()
  const response = await service.request('/emails', { body: secretMail(canary) })
  assert.equal(response.status, 422)
  assert.match(await response.text(), /`sensitive`.*SLUICE_ENCRYPTION_KEYS/)
  const id = await insertInto(opened, 'mail.outbox', secretMail(canary))
  const letter = await deadLetterOf(database, id)
  assert.equal(letter.code, 'no_encryption_key')
  assert.match(letter.reason, /hand it in again/)
  assert.deepEqual(await tablesWith(database, canary), [])
  const [retried] = await database.query<{ done: boolean }>('select mail.dlq_retry($1::uuid) as done', [id])
  assert.equal(retried?.done, false)
})

test('a message whose key is missing waits as a dead letter that names it, and goes out once it is back', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  const start = (keys: string) =>
    startTestService(database, { SMTP_URL: sink.url, SLUICE_ENCRYPTION_KEYS: keys })
  const canary = newCanary()
  const first = await start(ENCRYPTION_KEY)
  const at = { scheduled_at: 'in 1 hour' }
  const id = await idOf(await first.request('/emails', { body: secretMail(canary, at) }))
  const uses = await database.query('select key_id, messages from mail.encryption_key_use')
  assert.deepEqual(uses, [{ key_id: 'test-key', messages: '1' }])
  await first.stop()

  const newer = `newer:${ENCRYPTION_KEY.split(':')[1]?.replace(/^.{4}/, 'AAAA')}`
  const second = await start(newer)
  await database.query('select mail.reschedule($1, now())', [id])
  const letter = await deadLetterOf(database, id)
  assert.equal(letter.code, 'encryption_key_missing')
  assert.match(letter.reason, /`test-key`/)
  await second.stop()

  await start(`${newer},${ENCRYPTION_KEY}`)
  await database.query('select mail.dlq_retry($1::uuid)', [id])
  await untilStatus(database, id, 'sent')
  assert.ok(mailOf({ sink } as Open, id).includes(`Your code ${canary}`))
  assert.deepEqual(await database.query('select * from mail.encryption_key_use'), [])
})

test('an attachment named by URL is stored sealed; of a host that has none neither job nor letter tells the address', async (t) => {
  const canary = newCanary()
  const files = createServer((request, response) => {
    if (request.url?.startsWith('/gone') === true) response.writeHead(404).end()
    else response.end(`bytes ${canary}`)
  })
  await once(files.listen(0, '127.0.0.1'), 'listening')
  t.after(() => files.close())
  const host = `http://127.0.0.1:${(files.address() as AddressInfo).port}`
  const opened = await open(t, { SLUICE_ATTACHMENT_HOSTS: host })
  const { service, database } = opened
  const send = async (path: string) =>
    idOf(
      await service.request('/emails', {
        body: secretMail(canary, { attachments: [{ path: `${host}${path}` }] }),
      }),
    )
  const fetched = await send(`/file/${canary}.txt`)
  await untilStatus(database, fetched, 'sent')
  const mail = mailOf(opened, fetched)
  assert.ok(
    mail.includes(`${canary}.txt`) && mail.includes(Buffer.from(`bytes ${canary}`).toString('base64')),
  )

  const letter = await deadLetterOf(database, await send(`/gone/${canary}.txt`))
  assert.equal(letter.code, 'attachment_refused')
  assert.deepEqual(await tablesWith(database, canary), [])
})
