/**
 * Resend's official SDK, with nothing changed but its base URL, against a listening service: its calls are the judge of
 * the API's shape. Templates and webhooks have files of their own (templates-sdk, webhook-endpoints).
 */
import assert from 'node:assert/strict'
import { before, describe, test } from 'node:test'
import PostalMime, { type Email } from 'postal-mime'
import { Resend } from 'resend'
import { createKey } from '../../src/keys/keys.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { untilStatus } from '../support/messages.ts'
import { startTestService, TEST_KEY, type TestService } from '../support/service.ts'
import { type SmtpSink, type SunkMail, startSmtpSink } from '../support/smtp-sink.ts'

let database: TestDatabase
let service: TestService
let sink: SmtpSink
let resend: Resend

before(async (t) => {
  const context = t as Parameters<typeof createTestDatabase>[0]
  sink = await startSmtpSink(context)
  database = await createTestDatabase(context)
  service = await startTestService(database, { SMTP_URL: sink.url })
  resend = clientOf(TEST_KEY)
})

function clientOf(key: string): Resend {
  return new Resend(key, { baseUrl: service.url ?? '' })
}

type Answer<T> = {
  data: T | null
  error: { name: string; statusCode: number | null; message: string } | null
}

function dataOf<T>({ data, error }: Answer<T>): T {
  assert.equal(error, null, JSON.stringify(error))
  assert.ok(data)
  return data
}

function errorOf({ data, error }: Answer<unknown>): readonly [name: string, statusCode: number | null] {
  assert.equal(data, null)
  assert.ok(error)
  assert.ok(error.message.length > 0)
  return [error.name, error.statusCode]
}

/** The mail as it arrived, once it has. */
async function arrived(id: string): Promise<{ mail: SunkMail; parsed: Email }> {
  await untilStatus(database, id, 'sent')
  const mail = sink.mails.find(({ raw }) => raw.includes(id))
  assert.ok(mail, `mail ${id} is in the sink`)
  return { mail, parsed: await PostalMime.parse(mail.raw) }
}

const PNG = Buffer.from('89504e470d0a1a0a0000000d49484452', 'hex')

describe('emails.send', () => {
  test('brings every part of an email to its recipients', async () => {
    const { id } = dataOf(
      await resend.emails.send({
        from: 'Shop <shop@example.com>',
        to: ['Ann <ann@example.net>', 'bob@example.net'],
        cc: 'carl@example.net',
        bcc: ['dora@example.net'],
        replyTo: ['help@example.com'],
        subject: 'Grüße von uns',
        html: '<p>Thank you, <b>Ann</b>.</p>',
        text: 'Thank you, Ann.',
        headers: { 'X-Order': '1042' },
        tags: [{ name: 'kind', value: 'order' }],
      }),
    )
    const { mail, parsed } = await arrived(id)
    assert.equal(mail.from, 'shop@example.com')
    assert.deepEqual(mail.to.toSorted(), [
      'ann@example.net',
      'bob@example.net',
      'carl@example.net',
      'dora@example.net',
    ])
    assert.deepEqual(parsed.from, { address: 'shop@example.com', name: 'Shop' })
    assert.deepEqual(parsed.to, [
      { address: 'ann@example.net', name: 'Ann' },
      { address: 'bob@example.net', name: '' },
    ])
    assert.equal(parsed.cc?.[0]?.address, 'carl@example.net')
    assert.equal(mail.raw.includes('dora@example.net'), false, 'a blind copy is blind')
    assert.equal(parsed.replyTo?.[0]?.address, 'help@example.com')
    assert.equal(parsed.subject, 'Grüße von uns')
    assert.equal(parsed.html?.trim(), '<p>Thank you, <b>Ann</b>.</p>')
    assert.equal(parsed.text?.trim(), 'Thank you, Ann.')
    assert.equal(parsed.headers.find(({ key }) => key === 'x-order')?.value, '1042')

    const shown = dataOf(await resend.emails.get(id))
    assert.partialDeepStrictEqual(shown, {
      object: 'email',
      id,
      from: 'Shop <shop@example.com>',
      to: ['Ann <ann@example.net>', 'bob@example.net'],
      cc: ['carl@example.net'],
      bcc: ['dora@example.net'],
      reply_to: ['help@example.com'],
      subject: 'Grüße von uns',
      html: '<p>Thank you, <b>Ann</b>.</p>',
      text: 'Thank you, Ann.',
      last_event: 'sent',
      scheduled_at: null,
      tags: [{ name: 'kind', value: 'order' }],
      message_id: parsed.messageId,
    })
    assert.match(shown.created_at, /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}\+00$/)
  })

  test('takes attachments as buffers and as base64, and images for the HTML', async () => {
    const { id } = dataOf(
      await resend.emails.send({
        from: 'shop@example.com',
        to: 'ann@example.net',
        subject: 'Your invoice',
        html: '<p><img src="cid:logo"> Attached.</p>',
        attachments: [
          { filename: 'invoice 1042.pdf', content: Buffer.from('%PDF-1.7 invoice') },
          {
            filename: 'note.txt',
            content: Buffer.from('hello').toString('base64'),
            contentType: 'text/plain',
          },
          { filename: 'logo.png', content: PNG, contentId: 'logo' },
        ],
      }),
    )
    const { parsed } = await arrived(id)
    assert.deepEqual(
      parsed.attachments.map(({ filename, mimeType, content, disposition, contentId }) => ({
        filename,
        mimeType,
        disposition,
        contentId,
        content: Buffer.from(content as ArrayBuffer).toString('latin1'),
      })),
      [
        {
          filename: 'logo.png',
          mimeType: 'image/png',
          disposition: 'inline',
          contentId: '<logo>',
          content: PNG.toString('latin1'),
        },
        {
          filename: 'invoice 1042.pdf',
          mimeType: 'application/pdf',
          disposition: 'attachment',
          contentId: undefined,
          content: '%PDF-1.7 invoice',
        },
        {
          filename: 'note.txt',
          mimeType: 'text/plain',
          disposition: 'attachment',
          contentId: undefined,
          content: 'hello',
        },
      ],
    )
  })

  test('renders a template with its variables', async () => {
    dataOf(
      await resend.templates
        .create({
          name: 'reset',
          subject: 'Reset',
          html: '<p>{{{CODE}}}</p>',
          from: 'Shop <shop@example.com>',
        })
        .publish(),
    )
    const template = { id: 'reset', variables: { CODE: '123456' } }
    const { id } = dataOf(await resend.emails.send({ to: 'ann@example.net', template }))
    const { parsed } = await arrived(id)
    assert.deepEqual([parsed.subject, parsed.html?.trim()], ['Reset', '<p>123456</p>'])
  })

  test('sends once under one idempotency key, and refuses another body under it', async () => {
    const email = { from: 'shop@example.com', to: 'once@example.net', subject: 'Once', text: 'Once.' }
    const options = { idempotencyKey: 'order/1042' }
    const first = dataOf(await resend.emails.send(email, options))
    const again = await resend.emails.send(email, options)
    assert.deepEqual(dataOf(again), first)
    assert.equal(again.headers?.['idempotent-replayed'], 'true')
    const other = await resend.emails.send({ ...email, text: 'Twice.' }, options)
    assert.deepEqual(errorOf(other), ['invalid_idempotent_request', 409])
    await arrived(first.id)
    assert.equal(sink.mails.filter(({ to }) => to.includes('once@example.net')).length, 1)
  })
})

describe('scheduling', () => {
  test('emails are held for a moment or words, moved, and canceled', async () => {
    const email = { from: 'shop@example.com', to: 'later@example.net', subject: 'Later', text: 'Later.' }
    const moment = new Date(Date.now() + 3_600_000).toISOString()
    const { id } = dataOf(await resend.emails.send({ ...email, scheduledAt: moment }))
    const held = dataOf(await resend.emails.get(id))
    assert.deepEqual([held.last_event, held.scheduled_at], ['scheduled', moment])

    const later = new Date(Date.now() + 7_200_000).toISOString()
    assert.deepEqual(dataOf(await resend.emails.update({ id, scheduledAt: later })), { object: 'email', id })
    assert.equal(dataOf(await resend.emails.get(id)).scheduled_at, later)
    assert.deepEqual(dataOf(await resend.emails.cancel(id)), { object: 'email', id })
    assert.equal(dataOf(await resend.emails.get(id)).last_event, 'canceled')

    const words = dataOf(await resend.emails.send({ ...email, scheduledAt: 'in 1 hour' }))
    dataOf(
      await resend.emails.update({ id: words.id, scheduledAt: new Date(Date.now() - 1_000).toISOString() }),
    )
    await arrived(words.id)
    assert.deepEqual(errorOf(await resend.emails.cancel(words.id)), ['validation_error', 422])
  })
})

describe('batch.send', () => {
  const email = { from: 'shop@example.com', subject: 'Batch', text: 'Batch.' }

  test('accepts all in order, once under one idempotency key', async () => {
    const batch = [
      { ...email, to: 'first@example.net' },
      { ...email, to: 'second@example.net' },
    ]
    const options = { idempotencyKey: 'batch/1' }
    const { data } = dataOf(await resend.batch.send(batch, options))
    assert.equal(data.length, 2)
    assert.deepEqual(dataOf(await resend.batch.send(batch, options)).data, data)
    for (const [index, { id }] of data.entries()) {
      assert.deepEqual((await arrived(id)).mail.to, [batch[index]?.to])
    }
  })

  test('strict refuses all for one, permissive leaves that one out', async () => {
    const batch = [
      { ...email, to: 'third@example.net' },
      { ...email, to: 'nobody' },
    ]
    const refused = await resend.batch.send(batch)
    assert.deepEqual(errorOf(refused), ['validation_error', 422])
    assert.match(refused.error?.message ?? '', /`\[1\]\.to`/)
    const taken = dataOf(await resend.batch.send(batch, { batchValidation: 'permissive' }))
    assert.equal(taken.data.length, 1)
    assert.deepEqual(
      taken.errors?.map(({ index }) => index),
      [1],
    )
    assert.deepEqual((await arrived(taken.data[0]?.id ?? '')).mail.to, ['third@example.net'])
  })
})

test('emails.list goes through all, page by page, in both directions', async () => {
  const ids: string[] = []
  let after: string | undefined
  do {
    const page = dataOf(await resend.emails.list(after === undefined ? { limit: 3 } : { limit: 3, after }))
    assert.equal(page.object, 'list')
    ids.push(...page.data.map(({ id }) => id))
    after = page.has_more ? page.data.at(-1)?.id : undefined
  } while (after !== undefined)
  assert.deepEqual(ids, ids.toSorted().toReversed())
  const [{ count } = { count: 0 }] = await database.query<{ count: number }>(
    'select count(*)::integer as count from mail.message',
  )
  assert.deepEqual([ids.length, new Set(ids).size], [count, count])
  const back = dataOf(await resend.emails.list({ limit: 2, before: ids[4] ?? '' }))
  assert.deepEqual(
    back.data.map(({ id }) => id),
    ids.slice(2, 4),
  )
})

test('apiKeys make, list and remove keys that hold at once', async () => {
  const made = dataOf(await resend.apiKeys.create({ name: 'sender', permission: 'sending_access' }))
  const sender = clientOf(made.token)
  const email = { from: 'shop@example.com', to: 'ann@example.net', subject: 'Hi', text: 'Hi' }
  const { id } = dataOf(await sender.emails.send(email))
  assert.deepEqual(errorOf(await sender.emails.get(id)), ['restricted_api_key', 401])
  assert.ok(dataOf(await resend.apiKeys.list()).data.some((key) => key.id === made.id))
  dataOf(await resend.apiKeys.remove(made.id))
  assert.deepEqual(errorOf(await sender.emails.send(email)), ['invalid_api_key', 401])
})

test('suppressions keep mail from an address until it is taken off', async () => {
  const { id } = dataOf(await resend.suppressions.add({ email: 'gone@example.net' }))
  const email = { from: 'shop@example.com', to: 'gone@example.net', subject: 'Hi', text: 'Hi' }
  const held = dataOf(await resend.emails.send(email))
  await untilStatus(database, held.id, 'suppressed')
  assert.equal(dataOf(await resend.emails.get(held.id)).last_event, 'suppressed')
  assert.equal(dataOf(await resend.suppressions.get('gone@example.net')).id, id)
  dataOf(await resend.suppressions.remove('gone@example.net'))
  await arrived(dataOf(await resend.emails.send(email)).id)
})

test('errors have Resend’s names and status, and say which field', async () => {
  const email = { from: 'shop@example.com', to: 'ann@example.net', subject: 'Hi', text: 'Hi' }
  const untitled = { from: email.from, to: email.to, text: email.text }
  const limited = await createKeyOf({ scope: 'send', rate_limit_per_s: 0.01, rate_burst: 1 })
  const bound = await createKeyOf({ scope: 'send', sender_domains: ['example.org'] })
  dataOf(await limited.emails.send(email))
  const cases: [Answer<unknown>, string, number, RegExp][] = [
    [await clientOf('wrong').emails.send(email), 'invalid_api_key', 401, /invalid/],
    [await resend.emails.send({ ...email, to: 'ann' }), 'validation_error', 422, /`to`.*name@example\.com/],
    [
      await resend.emails.send(untitled as Parameters<Resend['emails']['send']>[0]),
      'missing_required_field',
      422,
      /`subject`/,
    ],
    [
      await resend.emails.send({ ...email, attachments: [{ filename: 'a.txt', content: '*' }] }),
      'invalid_attachment',
      422,
      /`attachments\[0\]\.content`/,
    ],
    [
      await resend.emails.send(email, { idempotencyKey: 'k'.repeat(257) }),
      'invalid_idempotency_key',
      400,
      /256/,
    ],
    [await resend.emails.get('019ac5a8-1f2e-7c31-9d54-6f1f4a0c2b7e'), 'not_found', 404, /not found/i],
    [await resend.emails.list({ limit: 101 }), 'validation_error', 422, /`limit`.*100/],
    [await limited.emails.send(email), 'rate_limit_exceeded', 429, /retry-after/],
    [await bound.emails.send(email), 'validation_error', 403, /`from`.*`example\.org`/],
    [await resend.domains.list(), 'not_found', 404, /GET \/domains/],
  ]
  for (const [answer, name, status, message] of cases) {
    assert.deepEqual(errorOf(answer), [name, status])
    assert.match(answer.error?.message ?? '', message)
  }
})

async function createKeyOf(settings: Omit<Parameters<typeof createKey>[1], 'name'>): Promise<Resend> {
  const { key } = await createKey(service.db, { name: 'test', ...settings })
  return clientOf(key)
}
