import assert from 'node:assert/strict'
import { before, describe, test } from 'node:test'
import fc from 'fast-check'
import { Client } from 'pg'
import { createKey, type KeyScope } from '../../src/keys/keys.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { deadLetterOf, post, untilStatus } from '../support/messages.ts'
import { startTestService, type TestService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'

let database: TestDatabase
let service: TestService
/** All emails, newest first. */
let all: string[] = []
const named: Record<string, string> = {}

before(async (t) => {
  const context = t as Parameters<typeof createTestDatabase>[0]
  const sink = await startSmtpSink(context)
  database = await createTestDatabase(context)
  service = await startTestService(database, { SMTP_URL: sink.url })
  await hand('order', { tags: [{ name: 'kind', value: 'order' }] })
  await hand('copied', { to: ['bob@example.net'], cc: 'Ann@Example.net', bcc: 'eve@example.net' })
  await hand('alert', { stream: 'alerts', tags: [{ name: 'kind', value: 'alert' }] })
  await hand('later', { scheduled_at: 'in 1 hour', reply_to: 'help@example.com' })
  await hand('templated', {
    ...{ subject: undefined, html: undefined, text: undefined },
    template: { id: 'missing' },
  })
  await service.request('/templates', {
    body: {
      name: 'brand',
      from: 'Brand <brand@example.com>',
      reply_to: 'help@example.com',
      subject: 'Hi',
      html: '<p>Hi</p>',
    },
  })
  assert.equal((await service.request('/templates/brand/publish', { body: {} })).status, 200)
  await hand('branded', {
    ...{ from: undefined, subject: undefined, html: undefined, text: undefined },
    to: 'fan@example.net',
    template: { id: 'brand' },
  })
  await refuse('refused', '{"subject":"\\u0000","to":{"a\\u0000b":[]},"from":"shop@example.com"}')
  await refuse('discarded', '[1,2,"\\u0000"]')
  await database.query('select mail.dlq_discard($1::uuid)', [named.discarded])
  for (let n = 0; n < 5; n += 1) await hand(`plain ${n}`, { to: 'crowd@example.net' })
  const rest = ['order', 'copied', 'alert', 'branded', ...Array.from({ length: 5 }, (_, n) => `plain ${n}`)]
  for (const name of rest) await untilStatus(database, idOf(name), 'sent')
  await deadLetterOf(database, idOf('templated'))
})

async function hand(name: string, changes: Record<string, unknown>): Promise<void> {
  const id = await post(service, changes)
  named[name] = id
  all = [id, ...all]
}

async function refuse(name: string, message: string): Promise<void> {
  const [row] = await database.query<{ id: string }>(
    'insert into mail.outbox (message) values ($1) returning id',
    [message],
  )
  const id = row?.id ?? ''
  await deadLetterOf(database, id)
  named[name] = id
  all = [id, ...all]
}

function idOf(name: string): string {
  const id = named[name]
  assert.ok(id, name)
  return id
}

type Item = Record<string, unknown> & { id: string }
type Page = { object: string; has_more: boolean; data: Item[] }

async function list(query: Record<string, string | number> = {}): Promise<Page> {
  const parameters = new URLSearchParams()
  for (const [key, value] of Object.entries(query)) parameters.set(key, String(value))
  const response = await service.request(`/emails?${parameters}`)
  const page = (await response.json()) as Page
  assert.equal(response.status, 200, JSON.stringify(page))
  return page
}

async function names(query: Record<string, string | number>): Promise<string[]> {
  const { data, has_more: hasMore } = await list(query)
  assert.equal(hasMore, false)
  return data.map(({ id }) => Object.entries(named).find(([, each]) => each === id)?.[0] ?? id)
}

describe('the list of emails', () => {
  test('is newest first, and pages through it meet each email once, in either direction', async () => {
    assert.deepEqual(
      (await list()).data.map(({ id }) => id),
      all,
    )
    for (const limit of [1, 3, 5, 100]) {
      const seen: string[] = []
      for (let page = await list({ limit }); ; page = await list({ limit, after: seen.at(-1) ?? '' })) {
        assert.ok(page.data.length <= limit)
        seen.push(...page.data.map(({ id }) => id))
        if (!page.has_more) break
      }
      assert.deepEqual(seen, all)
      const back: string[] = [all.at(-1) ?? '']
      for (let hasMore = true; hasMore; ) {
        const page = await list({ limit, before: back[0] ?? '' })
        back.unshift(...page.data.map(({ id }) => id))
        hasMore = page.has_more
      }
      assert.deepEqual(back, all)
    }
  })

  test('shows an email as Resend’s client expects it, and where it stands', async () => {
    const item = (await list()).data.find(({ id }) => id === named.later)
    assert.ok(item)
    const { created_at: createdAt, scheduled_at: scheduledAt, ...rest } = item
    assert.match(String(createdAt), /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}\+00$/)
    assert.ok(Math.abs(Date.parse(String(createdAt)) - Date.now()) < 600_000)
    assert.equal(new Date(String(scheduledAt)).toISOString(), scheduledAt)
    assert.deepEqual(rest, {
      id: named.later,
      message_id: `<${named.later}@example.com>`,
      from: 'Shop <shop@example.com>',
      to: ['ann@example.net'],
      cc: [],
      bcc: [],
      reply_to: ['help@example.com'],
      subject: 'Your order',
      last_event: 'scheduled',
      tags: [],
      status: 'scheduled',
      stream: 'transactional',
      sensitive: false,
    })
  })

  test('shows each email as it is shown by itself', async () => {
    const { data } = await list()
    for (const item of data) {
      const shown = (await (await service.request(`/emails/${item.id}`)).json()) as Item
      for (const key of Object.keys(item)) assert.deepEqual(shown[key], item[key], `${key} of ${item.id}`)
    }
    const branded = data.find(({ id }) => id === named.branded)
    assert.deepEqual(
      [branded?.from, branded?.reply_to, branded?.subject],
      ['Brand <brand@example.com>', ['help@example.com'], 'Hi'],
    )
  })

  test('shows what could not be read without its content, also when it was given up', async () => {
    for (const [name, status] of [
      ['refused', 'dead'],
      ['discarded', 'canceled'],
    ] as const) {
      const item = (await list()).data.find(({ id }) => id === named[name])
      assert.deepEqual([item?.status, item?.from, item?.to, item?.subject], [status, null, [], null])
      const response = await service.request(`/emails/${named[name]}`)
      assert.equal(response.status, 200)
      assert.equal(((await response.json()) as Item).status, status)
    }
  })

  test('can be asked for by state, by Resend’s word for it, and by stream', async () => {
    assert.deepEqual(await names({ status: 'scheduled' }), ['later'])
    assert.deepEqual(await names({ status: 'dead' }), ['refused', 'templated'])
    assert.deepEqual(await names({ last_event: 'failed' }), ['refused', 'templated'])
    assert.deepEqual(await names({ last_event: 'canceled', stream: 'transactional' }), ['discarded'])
    assert.deepEqual(await names({ stream: 'alerts' }), ['alert'])
    assert.deepEqual(await names({ stream: 'alerts', status: 'dead' }), [])
    assert.deepEqual(await names({ last_event: 'queued', status: 'sent' }), [])
  })

  test('can be asked for by recipient: to, cc and bcc, in any case, the whole address', async () => {
    const ann = ['later', 'alert', 'copied', 'order']
    for (const recipient of ['ann@example.net', 'ANN@EXAMPLE.NET', 'Ann <ann@Example.net>']) {
      assert.deepEqual(await names({ recipient, status: 'sent' }), ann.slice(1))
      assert.deepEqual(await names({ recipient, limit: 100 }), ['templated', ...ann])
    }
    assert.deepEqual(await names({ recipient: 'eve@example.net' }), ['copied'])
    assert.deepEqual(await names({ recipient: 'bob@example.net' }), ['copied'])
    assert.deepEqual(await names({ recipient: 'nn@example.net' }), [])
    assert.deepEqual(await names({ recipient: '%@example.net' }), [])
    const crowd = await list({ recipient: 'crowd@example.net', limit: 2 })
    assert.deepEqual(
      crowd.data.map(({ id }) => id),
      [named['plain 4'], named['plain 3']],
    )
    assert.equal(crowd.has_more, true)
    const next = await list({ recipient: 'crowd@example.net', after: named['plain 3'] ?? '' })
    assert.deepEqual(
      next.data.map(({ id }) => id),
      [named['plain 2'], named['plain 1'], named['plain 0']],
    )
  })

  test('can be asked for by tag, and by all of these together', async () => {
    assert.deepEqual(await names({ tag: 'kind' }), ['alert', 'order'])
    assert.deepEqual(await names({ tag: 'kind:order' }), ['order'])
    assert.deepEqual(await names({ tag: 'order' }), [])
    assert.deepEqual(await names({ tag: 'kind', recipient: 'ann@example.net', stream: 'alerts' }), ['alert'])
    assert.deepEqual(await names({ tag: 'kind', recipient: 'crowd@example.net' }), [])
  })

  test('can be asked for by the time of acceptance, and keeps to it after a retry', async () => {
    const [order] = await database.query<{ at: Date }>(
      'select accepted_at as at from mail.message where id = $1',
      [named.order],
    )
    const at = order?.at.toISOString() ?? ''
    const before = new Date(Date.parse(at) - 60_000).toISOString()
    assert.deepEqual(await names({ accepted_after: before, tag: 'kind:order' }), ['order'])
    assert.deepEqual(await names({ accepted_before: before }), [])
    assert.deepEqual(
      (await list({ accepted_after: before })).data.map(({ id }) => id),
      all,
    )
    const times = { accepted_after: before, accepted_before: new Date(Date.now() + 60_000).toISOString() }
    assert.equal((await list({ ...times, status: 'sent' })).data.length, 9)
    assert.deepEqual(await names({ accepted_after: '0001-01-01T00:00:00Z', status: 'scheduled' }), ['later'])
    assert.deepEqual(await names({ accepted_before: '9999-12-31T23:59:59Z', status: 'scheduled' }), ['later'])
    assert.deepEqual(await names({ accepted_before: '0001-01-01T00:00:00Z' }), [])

    const acceptedAt = async () => {
      const [row] = await database.query<{ at: Date }>(
        'select accepted_at as at from mail.message where id = $1',
        [named.refused],
      )
      return row?.at
    }
    const was = await acceptedAt()
    await database.query('select mail.dlq_retry($1::uuid)', [named.refused])
    await deadLetterOf(database, idOf('refused'))
    assert.deepEqual(await acceptedAt(), was)
  })

  test('is for keys that may read', async () => {
    for (const [scope, status] of [
      ['read', 200],
      ['send', 401],
      ['operate', 401],
    ] as const) {
      const { key } = await createKey(service.db, { name: scope, scope: scope as KeyScope })
      const response = await service.request('/emails', { headers: { Authorization: `Bearer ${key}` } })
      assert.equal(response.status, status)
    }
  })
})

const TEMPLATE_ID = '0192f000-0000-7000-8000-000000000001'

describe('a query that is not understood is refused by the name of its parameter', () => {
  for (const [query, parameter, reason] of [
    ['page=2', 'page', /no such parameter; use `limit`, `after`/],
    ['Limit=2', 'Limit', /no such parameter/],
    ['__proto__=1', '__proto__', /no such parameter/],
    ['constructor=1', 'constructor', /no such parameter/],
    ['limit=0', 'limit', /from 1 to 100/],
    ['limit=101', 'limit', /from 1 to 100/],
    ['limit=1e1', 'limit', /from 1 to 100/],
    ['limit=-1', 'limit', /from 1 to 100/],
    ['limit=', 'limit', /it is empty/],
    ['limit=5&limit=6', 'limit', /given twice/],
    ['status=gone', 'status', /use one of accepted, scheduled/],
    ['last_event=read', 'last_event', /use one of queued, scheduled/],
    ['stream=No%20Such', 'stream', /cannot be the name/],
    ['recipient=nobody', 'recipient', /`@`/],
    ['tag=a:b:c', 'tag', /`name:value`/],
    ['tag=%00', 'tag', /`name:value`/],
    ['accepted_after=yesterday', 'accepted_after', /not a date and time/],
    ['accepted_before=2026-11-21T10:00:00', 'accepted_before', /no offset/],
    [`after=${TEMPLATE_ID}`, 'after', /is not the id of an email; use an `id` of this list/],
    [`before=${TEMPLATE_ID}`, 'before', /is not the id of an email/],
    ['after=1', 'after', /is not the id of an email/],
    ["after=';drop%20table%20mail.message;--", 'after', /is not the id of an email/],
    [`after=${TEMPLATE_ID}&before=${TEMPLATE_ID}`, 'before', /together with `after`/],
  ] as const) {
    test(query, async () => {
      const response = await service.request(`/emails?${query}`)
      const { name, message } = (await response.json()) as { name: string; message: string }
      assert.deepEqual([response.status, name], [422, 'validation_error'], message)
      assert.ok(message.includes(`\`${parameter}\``), message)
      assert.match(message, reason)
    })
  }

  test('whatever it holds', async () => {
    const parameter = fc.constantFrom(
      ...['limit', 'after', 'before', 'status', 'last_event', 'stream', 'tag', 'recipient'],
      ...['accepted_after', 'accepted_before', 'toString', 'x'],
    )
    const value = fc.oneof(
      // Any code unit, halves of pairs too.
      fc.array(fc.nat(0xffff), { maxLength: 300 }).map((units) => String.fromCharCode(...units)),
      fc.constantFrom(
        ...all,
        TEMPLATE_ID,
        '%',
        '%zz',
        '\0',
        "'",
        '1',
        'sent',
        'ann@example.net',
        'kind:order',
      ),
    )
    const query = fc
      .array(fc.tuple(parameter, value, fc.boolean()), { maxLength: 4 })
      .map((parts) =>
        parts
          .map(([key, text, isRaw]) => `${key}=${isRaw ? text : encodeURIComponent(text.toWellFormed())}`)
          .join('&'),
      )
    await fc.assert(
      fc.asyncProperty(query, async (text) => {
        const response = await service.request(`/emails?${text}`)
        const answer = await response.text()
        assert.ok([200, 422].includes(response.status), `${response.status} ${answer}`)
      }),
      { numRuns: 200 },
    )
  })
})

test('a search that takes too long ends, and says how to narrow it', async () => {
  const holder = new Client({ connectionString: database.url })
  await holder.connect()
  try {
    await holder.query('begin; lock table mail.finder in access exclusive mode')
    const response = await service.request('/emails?tag=kind')
    const { name, message } = (await response.json()) as { name: string; message: string }
    assert.deepEqual([response.status, name], [422, 'validation_error'])
    assert.match(message, /`accepted_after`/)
  } finally {
    await holder.end()
  }
  assert.deepEqual(await names({ tag: 'kind' }), ['alert', 'order'])
})
