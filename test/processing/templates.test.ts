import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import PostalMime from 'postal-mime'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { deadLetterOf, post, untilStatus } from '../support/messages.ts'
import { startTestService, type TestService } from '../support/service.ts'
import { type SmtpSink, startSmtpSink } from '../support/smtp-sink.ts'

let database: TestDatabase
let service: TestService
let sink: SmtpSink

before(async (t) => {
  const context = t as Parameters<typeof createTestDatabase>[0]
  sink = await startSmtpSink(context)
  database = await createTestDatabase(context)
  service = await startTestService(database, { SMTP_URL: sink.url })
})

async function call(path: string, body?: object, method = 'POST'): Promise<void> {
  const response = await service.request(path, { body: body ?? {}, method })
  assert.equal(response.status, 200, await response.text())
}

async function published(draft: { name: string } & Record<string, unknown>): Promise<void> {
  await call('/templates', draft)
  await call(`/templates/${draft.name}/publish`)
}

async function publishNext(name: string, changes: object): Promise<void> {
  await call(`/templates/${name}`, changes, 'PATCH')
  await call(`/templates/${name}/publish`)
}

type Given = { variables?: object; from?: string | undefined; reply_to?: string }

function send(id: string, { variables = {}, ...given }: Given = {}): Promise<string> {
  const content = { subject: undefined, html: undefined, text: undefined }
  return post(service, { ...content, template: { id, variables }, ...given })
}

async function mailOf(id: string) {
  await untilStatus(database, id, 'sent')
  const mail = sink.mails.find(({ raw }) => raw.includes(id))
  assert.ok(mail)
  return PostalMime.parse(mail.raw)
}

async function partialsOf(id: string): Promise<unknown> {
  const [row] = await database.query<{ partials: unknown }>(
    "select detail -> 'partials' as partials from mail.event where message_id = $1 and type = 'queued'",
    [id],
  )
  return row?.partials ?? null
}

test('a template is rendered with what it uses as published now, and the event says of which versions', async () => {
  await published({ name: 'sign', html: '<i>one</i>' })
  await published({ name: 'frame', html: '<main>{% block main %}{% endblock %}{% render "sign" %}</main>' })
  const html = '{% layout "frame" %}{% block main %}{{ a }}{% endblock %}'
  await published({ name: 'page', subject: 'x', html })
  const early = await send('page', { variables: { a: 1 } })
  assert.match((await mailOf(early)).html ?? '', /<main>1<i>one<\/i><\/main>/)
  assert.deepEqual(await partialsOf(early), { frame: 1, sign: 1 })
  await publishNext('sign', { html: '<i>two</i>' })
  const late = await send('page', { variables: { a: 2 } })
  assert.match((await mailOf(late)).html ?? '', /<main>2<i>two<\/i><\/main>/)
  assert.deepEqual(await partialsOf(late), { frame: 1, sign: 2 })
})

test('a template that uses no other says nothing of versions', async () => {
  await published({ name: 'alone', subject: 'x', text: 'x' })
  const id = await send('alone')
  await mailOf(id)
  assert.equal(await partialsOf(id), null)
})

test('what was removed since is a dead letter that names it, and goes out once it is back', async () => {
  await published({ name: 'stamp', text: 'stamp' })
  await published({ name: 'letter', subject: 'x', text: '{% render "stamp" %}' })
  await call('/templates/stamp', undefined, 'DELETE')
  const id = await send('letter')
  const dead = await deadLetterOf(database, id)
  assert.deepEqual(
    [dead.code, dead.template, dead.template_version],
    ['template_partial_missing', 'letter', 1],
  )
  assert.match(dead.reason, /"stamp"/)
  await published({ name: 'stamp', text: 'new stamp' })
  await database.query('select mail.dlq_retry($1)', [id])
  assert.match((await mailOf(id)).text ?? '', /new stamp/)

  await call('/templates/letter', undefined, 'DELETE')
  const orphan = await deadLetterOf(database, await send('letter'))
  assert.equal(orphan.code, 'template_not_found')
})

test('a strict template fails the message that lacks variables, and names them all', async () => {
  await published({
    name: 'strict',
    subject: '{{ a }}',
    text: '{{ b.c }}{% if d %}{% endif %}',
    strict: true,
  })
  const dead = await deadLetterOf(database, await send('strict'))
  assert.equal(dead.code, 'template_missing_variable')
  assert.match(dead.reason, /gives no a, b\.c\. Send anew/)
  const mail = await mailOf(await send('strict', { variables: { a: 'A', b: { c: 'C' } } }))
  assert.deepEqual([mail.subject, mail.text?.trim()], ['A', 'C'])
  await publishNext('strict', { strict: false, subject: 'x{{ a }}' })
  assert.equal((await mailOf(await send('strict'))).subject, 'x')
})

test('a message without a sender has the template’s, and without either it is a dead letter', async () => {
  await published({
    name: 'sender',
    subject: 'x',
    text: 'x',
    from: 'T <t@example.com>',
    reply_to: 'r@example.com',
  })
  const mail = await mailOf(await send('sender', { from: undefined }))
  assert.deepEqual([mail.from?.address, mail.replyTo?.[0]?.address], ['t@example.com', 'r@example.com'])
  const own = await mailOf(await send('sender', { from: 'me@example.com', reply_to: 'you@example.com' }))
  assert.deepEqual([own.from?.address, own.replyTo?.[0]?.address], ['me@example.com', 'you@example.com'])
  await publishNext('sender', { from: null })
  const dead = await deadLetterOf(database, await send('sender', { from: undefined }))
  assert.equal(dead.code, 'no_sender')
  assert.match(dead.reason, /Template sender has no from/)
})

test('by SQL too, a message needs no sender when its template has one', async () => {
  await published({ name: 'from-sql', subject: 'x', text: '{{ a }}', from: 'sql@example.com' })
  const [row] = await database.query<{ id: string }>(
    `select mail.send('{"to":"ann@example.net","template":{"id":"from-sql","variables":{"a":"A"}}}') as id`,
  )
  assert.equal((await mailOf(row?.id ?? '')).from?.address, 'sql@example.com')
  await assert.rejects(
    database.query(`select mail.send('{"to":"ann@example.net","subject":"x","text":"x"}')`),
    {
      code: '22023',
    },
  )
})

test('what was written by SQL is held to the same: cycles, addresses and variables that are none', async () => {
  const write = async (name: string, text: string, sender: string | null = null, variables = '[]') => {
    await database.query(
      `with t as (insert into mail.template (name) values ($1) returning id)
       insert into mail.template_version (template_id, version, subject, text, sender, variables, published_at)
       select id, 1, 'x', $2, $3, $4, now() from t`,
      [name, text, sender, variables],
    )
  }
  await write('sql a', '{% render "sql b" %}')
  await write('sql b', "{%- layout 'sql a' -%}")
  await write('sql c', 'x', 'nobody')
  await write('sql d', 'x', null, '[null]')
  const expected = [
    { name: 'sql a', code: 'template_partial_missing', reason: /uses itself/ },
    { name: 'sql c', code: 'no_sender', reason: /nobody/ },
    { name: 'sql d', code: 'template_failed', reason: /variables/ },
  ]
  for (const { name, code, reason } of expected) {
    const dead = await deadLetterOf(database, await send(name, { from: undefined }))
    assert.equal(dead.code, code, dead.reason)
    assert.match(dead.reason, reason)
  }
})
