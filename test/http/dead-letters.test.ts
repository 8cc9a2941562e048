import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import { createKey } from '../../src/keys/keys.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { deadLetterOf, insertMany, readMessage, untilStatus } from '../support/messages.ts'
import { orderMail, startTestService, type TestService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'

let database: TestDatabase
let service: TestService
/** Messages whose template does not exist, oldest first, a minute apart. */
let ids: string[]

before(async (t) => {
  const context = t as Parameters<typeof createTestDatabase>[0]
  const sink = await startSmtpSink(context)
  database = await createTestDatabase(context)
  service = await startTestService(database, { SMTP_URL: sink.url })
  const bodies = { subject: undefined, html: undefined, text: undefined }
  ids = await insertMany(database, 12, orderMail({ ...bodies, template: { id: 'later' } }))
  for (const [age, id] of ids.entries()) {
    await deadLetterOf(database, id)
    await database.query(
      `update mail.dead_letter set died_at = now() - interval '1 hour' + $2 * interval '1 minute' where message_id = $1`,
      [id, age],
    )
  }
})

type Answer = {
  readonly name?: string
  readonly message?: string
  readonly has_more?: boolean
  readonly data?: readonly Record<string, unknown>[]
  readonly retried?: number
  readonly discarded?: number
}

async function ask(path: string, body?: unknown): Promise<Answer & { status: number }> {
  const response = await service.request(`/dead-letters${path}`, body === undefined ? {} : { body })
  return { ...((await response.json()) as Answer), status: response.status }
}

test('dead letters are listed latest first, chosen by what they have in common', async () => {
  const all = await ask('')
  assert.equal(all.status, 200)
  assert.deepEqual(
    all.data?.map((letter) => letter.message_id),
    ids.toReversed(),
  )
  assert.partialDeepStrictEqual(all.data?.[0], {
    stage: 'processing',
    code: 'template_not_found',
    template: 'later',
    template_version: null,
    stream: 'transactional',
    recipient_domain: 'example.net',
  })
  const few = await ask('?limit=3&template=later&stage=processing')
  assert.deepEqual([few.data?.length, few.has_more], [3, true])
  const last = await ask('?limit=12')
  assert.deepEqual([last.data?.length, last.has_more], [12, false])
  assert.deepEqual((await ask('?template=other')).data, [])
  assert.deepEqual((await ask(`?until=${encodeURIComponent('2020-01-01T00:00:00Z')}`)).data, [])
})

test('a list that makes no sense is refused', async () => {
  for (const [query, message] of [
    ['?colour=red', /cannot be filtered by "colour"/],
    ['?limit=0', /`limit`/],
    ['?limit=-1', /`limit`/],
    ['?limit=1.5', /`limit`/],
    ['?limit=501', /`limit`/],
    ['?limit=many', /`limit`/],
    ['?since=whenever', /whenever/],
    ['?since=2026-13-45', /2026-13-45/],
    ['?code=%00', /./],
  ] as const) {
    const answer = await ask(query)
    assert.deepEqual([answer.status, answer.name], [422, 'validation_error'], query)
    assert.match(answer.message ?? '', message)
  }
})

test('their summary is one row for one cause', async () => {
  const { data = [] } = await ask('/summary')
  assert.equal(data.length, 1)
  assert.partialDeepStrictEqual(data[0], { code: 'template_not_found', template: 'later', messages: 12 })
})

test('a retry or discard that is not understood is refused, and nothing is done', async () => {
  for (const verb of ['/retry', '/discard']) {
    for (const [body, name, message] of [
      [{}, 'missing_required_field', /`id` or `filter`/],
      [{ max: 5 }, 'missing_required_field', /`id` or `filter`/],
      [{ filter: {} }, 'validation_error', /every dead letter/],
      [{ filter: { colour: 'red' }, max: 5 }, 'validation_error', /cannot be filtered by "colour"/],
      [{ filter: { code: 'no_such_code' }, max: 5 }, 'validation_error', /No dead letter matches/],
      [{ filter: { since: 'whenever' } }, 'validation_error', /whenever/],
      [{ filter: { since: null } }, 'validation_error', /"since"/],
      [{ filter: { code: ['a'] } }, 'validation_error', /`filter.code`/],
      [{ filter: { code: '\0' } }, 'validation_error', /./],
      [{ filter: 'everything', max: 5 }, 'validation_error', /`filter`/],
      [{ filter: {}, max: 0 }, 'validation_error', /`max`/],
      [{ filter: {}, max: '5' }, 'validation_error', /`max`/],
      [{ id: 'seven' }, 'validation_error', /`id`/],
      [{ id: ids[0], filter: {} }, 'validation_error', /`id` alone/],
      [{ id: ids[0], max: 3 }, 'validation_error', /`id` alone/],
      [{ colour: 'red' }, 'validation_error', /Unknown field `colour`/],
    ] as const) {
      const answer = await ask(verb, body)
      assert.deepEqual(
        [answer.status, answer.name],
        [422, name],
        `${verb} ${JSON.stringify(body)} ${answer.message}`,
      )
      assert.match(answer.message ?? '', message)
    }
  }
  for (const pace of [0, -1, 1e300, 'fast']) {
    assert.equal((await ask('/retry', { filter: {}, max: 1, per_second: pace })).status, 422, String(pace))
  }
  assert.equal((await ask('/discard', { id: ids[0], per_second: 3 })).status, 422)
  assert.equal((await ask('?limit=100')).data?.length, 12)
})

test('keys that send or read may not, one that operates may', async () => {
  const calls = [
    ['GET', ''],
    ['GET', '/summary'],
    ['POST', '/retry'],
    ['POST', '/discard'],
  ] as const
  for (const scope of ['send', 'read', 'operate'] as const) {
    const { key } = await createKey(service.db, { name: scope, scope })
    for (const [method, path] of calls) {
      const response = await service.request(`/dead-letters${path}`, {
        method,
        headers: { Authorization: `Bearer ${key}` },
        ...(method === 'POST' ? { body: {} } : {}),
      })
      // An empty order is not understood, which only those hear who may give one.
      const allowed = method === 'POST' ? 422 : 200
      assert.equal(response.status, scope === 'operate' ? allowed : 401, `${scope} ${method} ${path}`)
    }
  }
})

test('a discard gives up one, or the oldest that match', async () => {
  assert.equal((await ask('/discard', { id: ids[11] })).discarded, 1)
  assert.equal((await ask('/discard', { id: ids[11] })).discarded, 0)
  assert.equal((await ask('/discard', { filter: { template: 'later' }, max: 2 })).discarded, 2)
  for (const id of [ids[0], ids[1], ids[11]]) {
    assert.equal((await readMessage(database, id ?? ''))?.status, 'canceled')
  }
})

test('a retry sends one, or the oldest that match, again', async () => {
  const draft = { name: 'later', subject: 'Hello', text: 'Hello' }
  assert.equal((await service.request('/templates', { body: draft })).status, 200)
  assert.equal((await service.request('/templates/later/publish', { method: 'POST' })).status, 200)
  assert.equal((await ask('/retry', { id: ids[10] })).retried, 1)
  assert.equal((await ask('/retry', { id: ids[10] })).retried, 0)
  assert.equal((await ask('/retry', { filter: { template: 'later' }, max: 3, per_second: 1_000 })).retried, 3)
  for (const id of [ids[2], ids[3], ids[4], ids[10]]) await untilStatus(database, id ?? '', 'sent')
  assert.equal((await ask('')).data?.length, 5)
  assert.equal((await ask('/retry', { filter: {}, max: 100 })).retried, 5)
  await eventually('nothing is left', async () => (await ask('')).data?.length === 0)
})
