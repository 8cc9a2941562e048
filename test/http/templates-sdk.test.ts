/** Resend's own SDK against a listening service: its calls are the judge of the shape. */
import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import PostalMime from 'postal-mime'
import { Resend } from 'resend'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { untilStatus } from '../support/messages.ts'
import { startTestService, TEST_KEY } from '../support/service.ts'
import { type SmtpSink, startSmtpSink } from '../support/smtp-sink.ts'

let database: TestDatabase
let sink: SmtpSink
let resend: Resend

before(async (t) => {
  const context = t as Parameters<typeof createTestDatabase>[0]
  sink = await startSmtpSink(context)
  database = await createTestDatabase(context)
  const service = await startTestService(database, { SMTP_URL: sink.url })
  resend = new Resend(TEST_KEY, { baseUrl: service.url ?? '' })
})

function dataOf<T>({ data, error }: { data: T | null; error: unknown }): T {
  assert.equal(error, null, JSON.stringify(error))
  assert.ok(data)
  return data
}

/** Sends, and returns the mail as it arrived. */
async function arrived(email: Parameters<Resend['emails']['send']>[0]) {
  const { id } = dataOf(await resend.emails.send(email))
  await untilStatus(database, id, 'sent')
  const mail = sink.mails.find(({ raw }) => raw.includes(id))
  assert.ok(mail)
  return { id, envelope: mail, parsed: await PostalMime.parse(mail.raw) }
}

test('create, publish, get, update, duplicate, list and remove, as the SDK calls them', async () => {
  const created = dataOf(
    await resend.templates.create({
      name: 'Order confirmation',
      alias: 'order-confirmation',
      subject: 'Order {{{NUMBER}}}',
      from: 'Shop <shop@example.com>',
      replyTo: ['help@example.com'],
      html: '<p>{{{PRODUCT}}} for {{{PRICE}}}</p>',
      variables: [
        { key: 'PRODUCT', type: 'string', fallbackValue: 'something' },
        { key: 'PRICE', type: 'number', fallbackValue: 20 },
        { key: 'NUMBER', type: 'number' },
      ],
    }),
  )
  assert.equal(created.object, 'template')
  const draft = dataOf(await resend.templates.get(created.id))
  assert.deepEqual([draft.status, draft.published_at, draft.has_unpublished_versions], ['draft', null, true])
  assert.equal(dataOf(await resend.templates.publish('order-confirmation')).id, created.id)
  const shown = dataOf(await resend.templates.get('order-confirmation'))
  assert.deepEqual(
    {
      ...shown,
      variables: shown.variables?.map(({ key, type, fallback_value }) => [key, type, fallback_value]),
    },
    {
      object: 'template',
      id: created.id,
      name: 'Order confirmation',
      alias: 'order-confirmation',
      status: 'published',
      created_at: draft.created_at,
      updated_at: shown.updated_at,
      published_at: shown.published_at,
      subject: 'Order {{{NUMBER}}}',
      html: '<p>{{{PRODUCT}}} for {{{PRICE}}}</p>',
      text: null,
      from: 'Shop <shop@example.com>',
      reply_to: ['help@example.com'],
      variables: [
        ['PRODUCT', 'string', 'something'],
        ['PRICE', 'number', 20],
        ['NUMBER', 'number', null],
      ],
      has_unpublished_versions: false,
      current_version_id: draft.current_version_id,
      version: 1,
      strict: false,
      uses: [],
    },
  )
  assert.ok(Date.parse(shown.published_at ?? '') >= Date.parse(shown.created_at))

  dataOf(await resend.templates.update(created.id, { subject: 'Your order', replyTo: 'other@example.com' }))
  const changed = dataOf(await resend.templates.get(created.id))
  assert.deepEqual(
    [changed.subject, changed.reply_to, changed.html, changed.has_unpublished_versions],
    ['Your order', ['other@example.com'], shown.html, true],
  )
  const copy = dataOf(await resend.templates.duplicate('order-confirmation').publish())
  assert.notEqual(copy.id, created.id)
  assert.equal(dataOf(await resend.templates.get(copy.id)).status, 'published')

  const first = dataOf(await resend.templates.list({ limit: 1 }))
  assert.deepEqual([first.has_more, first.data.map(({ id }) => id)], [true, [copy.id]])
  const rest = dataOf(await resend.templates.list({ after: copy.id }))
  assert.deepEqual([rest.has_more, rest.data.map(({ name }) => name)], [false, ['Order confirmation']])
  const back = dataOf(await resend.templates.list({ before: created.id }))
  assert.deepEqual(
    back.data.map(({ id }) => id),
    [copy.id],
  )
  assert.deepEqual(dataOf(await resend.templates.remove(copy.id)), {
    object: 'template',
    id: copy.id,
    deleted: true,
  })
  const gone = await resend.templates.get(copy.id)
  assert.deepEqual([gone.error?.name, gone.error?.statusCode], ['not_found', 404])
  const taken = await resend.templates.create({ name: 'Order confirmation', html: 'x' })
  assert.equal(taken.error?.name, 'validation_error')
})

test('a mail by template alone has its sender, subject and reply_to from the template', async () => {
  dataOf(
    await resend.templates
      .create({
        name: 'welcome',
        subject: 'Welcome, {{{NAME}}}',
        from: 'Ann at Shop <ann@shop.example>',
        replyTo: 'help@shop.example',
        html: '<p>Hello {{{NAME}}}, you have {{{POINTS}}} points.</p>',
        variables: [{ key: 'POINTS', type: 'number', fallbackValue: 5 }],
      })
      .publish(),
  )
  const template = { id: 'welcome', variables: { NAME: 'Tom & Co' } }
  const { id, envelope, parsed } = await arrived({ to: 'tom@example.net', template })
  assert.equal(envelope.from, 'ann@shop.example')
  assert.deepEqual(parsed.from, { address: 'ann@shop.example', name: 'Ann at Shop' })
  assert.deepEqual(
    parsed.replyTo?.map(({ address }) => address),
    ['help@shop.example'],
  )
  assert.equal(parsed.subject, 'Welcome, Tom & Co')
  assert.match(parsed.html ?? '', /<p>Hello Tom &amp; Co, you have 5 points\.<\/p>/)
  assert.equal(parsed.messageId, `<${id}@shop.example>`)
  const shown = dataOf(await resend.emails.get(id))
  assert.deepEqual([shown.reply_to, shown.subject], [['help@shop.example'], 'Welcome, Tom & Co'])
  assert.match(shown.from, /Ann at Shop.*<ann@shop\.example>/)
})

test('what the message gives wins over the template', async () => {
  const { envelope, parsed } = await arrived({
    from: 'Bob <bob@other.example>',
    to: 'tom@example.net',
    replyTo: 'bob@other.example',
    subject: 'Mine',
    template: { id: 'welcome', variables: { NAME: 'Tom', POINTS: 7 } },
  })
  assert.equal(envelope.from, 'bob@other.example')
  assert.equal(parsed.subject, 'Mine')
  assert.deepEqual(
    parsed.replyTo?.map(({ address }) => address),
    ['bob@other.example'],
  )
  assert.match(parsed.html ?? '', /7 points/)
})
