import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import { Client } from 'pg'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
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

type Template = {
  id: string
  name: string
  version: number
  status: string
  published_at: string | null
  html?: string | null
  text?: string | null
  subject?: string | null
  versions?: Template[]
}

async function ask<T = Template>(path: string, options: Parameters<TestService['request']>[1] = {}) {
  const response = await service.request(path, options)
  const body = (await response.json()) as T & { name?: string; message: string }
  return { status: response.status, body }
}

async function save(draft: Record<string, unknown>): Promise<Template> {
  const { status, body } = await ask('/templates', { body: draft })
  assert.equal(status, 200, body.message)
  return body
}

async function publish(reference: string): Promise<Template> {
  const { status, body } = await ask(`/templates/${reference}/publish`, { method: 'POST' })
  assert.equal(status, 200, body.message)
  return body
}

/** Sends to this one recipient and returns the mail as it arrived. */
async function mailTo(recipient: string, template: Record<string, unknown>): Promise<string> {
  const body = { from: 'shop@example.com', to: recipient, template }
  const response = await service.request('/emails', { body })
  assert.equal(response.status, 200)
  const arrived = () => sink.mails.find(({ to }) => to.includes(recipient))
  while (arrived() === undefined) await sink.waitForMails(sink.mails.length + 1)
  return arrived()?.raw.toString() ?? ''
}

test('a template is drafted, published and sent, escaped in HTML and not elsewhere', async () => {
  const draft = await save({
    name: 'welcome',
    subject: 'Welcome, {{ name }}',
    html: '<p>Dear {{ name }}</p>',
    text: 'Dear {{ name }}',
  })
  assert.deepEqual([draft.version, draft.status, draft.published_at], [1, 'draft', null])
  const published = await publish('welcome')
  assert.deepEqual([published.id, published.version, published.status], [draft.id, 1, 'published'])
  const raw = await mailTo('first@example.net', { id: 'welcome', variables: { name: 'Tom & Co' } })
  assert.match(raw, /^Subject: Welcome, Tom & Co\r$/m)
  assert.match(raw, /<p>Dear Tom &amp; Co<\/p>/)
  assert.match(raw, /^Dear Tom & Co\r$/m)
})

test('a draft is replaced in place, a published version only by the next one', async () => {
  const first = await save({ name: 'growing', text: 'one' })
  const changed = await save({ name: 'growing', text: 'one, changed' })
  assert.deepEqual([changed.id, changed.version], [first.id, 1])
  await publish('growing')
  const second = await save({ name: 'growing', text: 'two' })
  assert.deepEqual([second.id, second.version, second.status], [first.id, 2, 'draft'])
  const { body } = await ask('/templates/growing')
  assert.deepEqual(
    [body.text, body.versions?.map(({ version, status }) => [version, status])],
    [
      'two',
      [
        [2, 'draft'],
        [1, 'published'],
      ],
    ],
  )
})

test('a published version cannot be changed or deleted, not even by SQL', async () => {
  const { id } = await save({ name: 'fixed', text: 'as it is' })
  await publish(id)
  for (const statement of [
    "update mail.template set text = 'other' where name = 'fixed'",
    "update mail.template set published_at = null where name = 'fixed'",
    "delete from mail.template where name = 'fixed'",
  ]) {
    await assert.rejects(database.query(statement), { code: '55000', message: /published and cannot change/ })
  }
})

test('a message uses the latest published version, or the one it names', async () => {
  await save({ name: 'versions', subject: 'v1', text: 'one' })
  await publish('versions')
  const { id } = await save({ name: 'versions', subject: 'v2', text: 'two' })
  assert.match(await mailTo('draft-waits@example.net', { id: 'versions' }), /^Subject: v1\r$/m)
  await publish(id)
  assert.match(await mailTo('latest@example.net', { id }), /^Subject: v2\r$/m)
  assert.match(await mailTo('pinned@example.net', { id: 'versions', version: 1 }), /^Subject: v1\r$/m)
})

test('two who publish at the same moment both publish, and saving meanwhile waits for them', async () => {
  const draft = { name: 'contested', subject: 'x', text: 'x' }
  const { version } = await save(draft)
  const blocker = new Client({ connectionString: database.url })
  await blocker.connect()
  try {
    // All have read that it is a draft, and none has published it yet.
    await blocker.query("begin; select from mail.template where name = 'contested' for update")
    const both = Promise.all([publish('contested'), publish('contested')])
    const saved = save({ ...draft, text: 'y' })
    await eventually('all three wait', async () => {
      const { rowCount } = await blocker.query('select from pg_locks where not granted')
      return rowCount === 3
    })
    await blocker.query('commit')
    const [first, second] = await both
    assert.deepEqual([first.status, second.status], ['published', 'published'])
    await saved
    assert.equal((await ask('/templates/contested')).body.versions?.at(-1)?.version, version)
  } finally {
    await blocker.end()
  }
})

test('publishing again changes nothing', async () => {
  await save({ name: 'twice', text: 'once' })
  const first = await publish('twice')
  assert.deepEqual(await publish('twice'), first)
})

test('two drafts of one new name at the same moment are one template', async () => {
  const saved = await Promise.all(
    Array.from({ length: 10 }, (_, n) => save({ name: 'raced', text: `draft ${n}` })),
  )
  assert.deepEqual(
    [new Set(saved.map(({ id }) => id)).size, new Set(saved.map(({ version }) => version)).size],
    [1, 1],
  )
})

test('the list has the latest version of each', async () => {
  const { body } = await ask<{ data: Template[] }>('/templates')
  const growing = body.data.filter(({ name }) => name === 'growing')
  assert.deepEqual(
    growing.map(({ version }) => version),
    [2],
  )
})

test('a draft that is wrong is refused with the field or the fault', async () => {
  const wrong: [draft: unknown, name: string, message: RegExp][] = [
    [{ text: 'a' }, 'missing_required_field', /`name`/],
    [{ name: 'wrong' }, 'missing_required_field', /`html` or `text`/],
    [{ name: 'wrong', text: 7 }, 'validation_error', /`text`/],
    [{ name: '', text: 'a' }, 'validation_error', /`name`/],
    [{ name: 'n'.repeat(201), text: 'a' }, 'validation_error', /`name`/],
    [{ name: 'wrong', text: 'a\0' }, 'validation_error', /`text`/],
    [{ name: 'wrong\ud800', text: 'a' }, 'validation_error', /`name`/],
    [{ name: 'wrong', text: 'a', body: 'b' }, 'validation_error', /`body`/],
    [{ name: 'wrong', text: '{% if %}' }, 'validation_error', /./],
    [{ name: 'wrong', text: '{{ a | no_such_filter }}' }, 'validation_error', /no_such_filter/],
    [[], 'validation_error', /`body`/],
  ]
  for (const [draft, name, message] of wrong) {
    const answer = await ask<{ name: string }>('/templates', { body: draft })
    assert.deepEqual([answer.status, answer.body.name], [422, name], JSON.stringify(draft))
    assert.match(answer.body.message, message)
  }
  assert.equal((await ask('/templates/wrong')).status, 404)
})

test('a template that is not there is 404', async () => {
  for (const reference of ['nobody', '00000000-0000-4000-8000-000000000000', '%00', '%ED%A0%80']) {
    assert.equal((await ask(`/templates/${reference}`)).status, 404, reference)
    assert.equal((await ask(`/templates/${reference}/publish`, { method: 'POST' })).status, 404, reference)
  }
})
