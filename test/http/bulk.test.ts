import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { type ClientRequest, request as httpRequest, type IncomingMessage } from 'node:http'
import { text } from 'node:stream/consumers'
import { before, describe, test } from 'node:test'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { spawnService, startTestService, TEST_KEY, type TestService } from '../support/service.ts'
import { type SmtpSink, startSmtpSink } from '../support/smtp-sink.ts'

/** Holds the service, and not a body of 30 MB made into objects. */
const HEAP_MB = 110
const MAX_BULK_BYTES = 8 * 1_024 * 1_024

let database: TestDatabase
let sink: SmtpSink
let service: TestService
/** Nobody prepares or sends there: what is stored stays to be looked at. */
let quiet: TestDatabase
let api: TestService

before(async (t) => {
  const context = t as Parameters<typeof createTestDatabase>[0]
  sink = await startSmtpSink(context)
  database = await createTestDatabase(context)
  service = await startTestService(database, { SMTP_URL: sink.url })
  quiet = await createTestDatabase(context)
  api = await startTestService(quiet, {
    SLUICE_ROLES: 'api',
    SLUICE_MAX_BULK_BYTES: String(MAX_BULK_BYTES),
  })
})

type Answer = {
  object?: string
  accepted: number
  data: { id: string }[]
  rejected?: number
  errors?: { index: number; message: string }[]
  name?: string
  message: string
}

const NEWS = { from: 'news@example.com', subject: 'News', text: 'What is new.' }

function recipients(count: number, prefix = 'user'): object[] {
  return Array.from({ length: count }, (_, n) => ({ to: `${prefix}${n}@example.net` }))
}

async function bulk(body: unknown, headers: Record<string, string> = {}, to: TestService = api) {
  const response = await to.request('/emails/bulk', { body, headers })
  return { response, status: response.status, answer: (await response.json()) as Answer }
}

async function stored(pattern: string): Promise<number> {
  const [row] = await quiet.query<{ count: number }>(
    `select (select count(*) from mail.message_content where message -> 'to' -> 0 ->> 'address' like $1)::integer
       + (select count(*) from mail.outbox where message ->> 'to' like $1)::integer as count`,
    [pattern],
  )
  return row?.count ?? 0
}

describe('a bulk', () => {
  test('is one mail for each recipient, with its own data over the message’s', async () => {
    const template = { name: 'news', subject: 'For {{ name }}', text: '{{ name }} in {{ city }}' }
    await service.request('/templates', { body: template })
    await service.request('/templates/news/publish', { method: 'POST' })
    const { status, response, answer } = await bulk(
      {
        message: {
          from: 'News <news@example.com>',
          template: { id: 'news', variables: { city: 'Bern' } },
          headers: { 'X-Issue': '7' },
          metadata: { issue: '7' },
          tags: [{ name: 'kind', value: 'news' }],
        },
        recipients: [
          { to: 'Ann <ann@example.net>', variables: { name: 'Ann' } },
          {
            to: 'bob@example.net',
            cc: 'eve@example.net',
            variables: { name: 'Bob', city: 'Rome' },
            headers: { 'X-Issue': '8' },
            metadata: { row: '2' },
            tags: [{ name: 'plan', value: 'pro' }],
          },
        ],
      },
      {},
      service,
    )
    assert.deepEqual([status, answer.object, answer.accepted], [200, 'bulk', 2], answer.message)
    assert.equal(response.headers.get('Sluice-Durability'), 'durable')
    const mails = await sink.waitForMails(2)
    const bob = mails.find(({ to }) => to.includes('bob@example.net'))
    assert.deepEqual(bob?.to, ['bob@example.net', 'eve@example.net'])
    assert.match(String(bob?.raw), /Subject: For Bob[\s\S]*X-Issue: 8[\s\S]*Bob in Rome/)
    assert.match(String(mails.find(({ to }) => to.includes('ann@example.net'))?.raw), /Ann in Bern/)
    const view = await service.request(`/emails/${answer.data[1]?.id}`)
    const shown = (await view.json()) as Record<string, unknown>
    assert.deepEqual(
      [shown.to, shown.stream, shown.metadata, shown.tags],
      [
        ['bob@example.net'],
        'marketing',
        { issue: '7', row: '2' },
        [
          { name: 'kind', value: 'news' },
          { name: 'plan', value: 'pro' },
        ],
      ],
    )
  })

  test('of 10,000 is accepted by one call, with ids in the order given', async () => {
    const { status, answer } = await bulk({ message: NEWS, recipients: recipients(10_000, 'many') })
    assert.deepEqual([status, answer.accepted, answer.data.length], [200, 10_000, 10_000], answer.message)
    const ids = answer.data.map(({ id }) => id)
    const rows = await quiet.query<{ id: string; address: string }>(
      `select id, message ->> 'to' as address from mail.outbox where id = any ($1)
       union all
       select id, message -> 'to' -> 0 ->> 'address' from mail.message_content where id = any ($1)`,
      [ids],
    )
    const addresses = new Map(rows.map(({ id, address }) => [id, address]))
    assert.equal(rows.length, 10_000)
    for (const n of [0, 1, 499, 500, 9_999]) {
      assert.equal(addresses.get(ids[n] ?? ''), `many${n}@example.net`)
    }
  })

  test('with one bad recipient refuses all, and names it', async () => {
    const list = [...recipients(1_200, 'strict'), { to: 'nobody' }]
    const { status, answer } = await bulk({ message: NEWS, recipients: list })
    assert.deepEqual([status, answer.name], [422, 'validation_error'])
    assert.match(answer.message, /^Invalid `recipients\[1200\]\.to`: /)
    assert.equal(await stored('strict%'), 0)
  })

  test('that is permissive leaves bad ones out, and lists the first hundred of them', async () => {
    const list = recipients(300, 'lax').map((recipient, n) => (n % 2 === 0 ? recipient : { to: n }))
    const { status, answer } = await bulk(
      { message: NEWS, recipients: list },
      { 'x-batch-validation': 'permissive' },
    )
    assert.deepEqual([status, answer.accepted, answer.rejected, answer.errors?.length], [200, 150, 150, 100])
    assert.equal(answer.errors?.[0]?.index, 1)
    assert.match(answer.errors?.[0]?.message ?? '', /^Invalid `recipients\[1\]\.to`: it is 1; use/)
    assert.equal(await stored('lax%'), 150)
  })

  const person = { to: 'x@example.net' }
  const templated = { from: NEWS.from, template: { id: 'news' } }
  const REFUSED: readonly [what: string, body: unknown, status: number, message: RegExp][] = [
    ['recipients first', { recipients: [person], message: NEWS }, 422, /`message` must come before/],
    ['no recipients', { message: NEWS, recipients: [] }, 422, /Missing `recipients`/],
    ['recipients left out', { message: NEWS }, 422, /Missing `recipients`/],
    ['an empty object', {}, 422, /Missing `message`/],
    ['a list', [NEWS], 422, /object with `message` and `recipients`/],
    ['a message that is none', { message: 7, recipients: [person] }, 422, /`message`: use an object/],
    [
      'a message with `to`',
      { message: { ...NEWS, to: 'a@b.de' }, recipients: [person] },
      422,
      /`message\.to`/,
    ],
    ['a bad message', { message: { ...NEWS, subject: '' }, recipients: [person] }, 422, /`message\.subject`/],
    ['another field', { message: NEWS, recipient: [] }, 422, /`recipient`: there is no such field/],
    ['recipients that are no list', { message: NEWS, recipients: { a: 1 } }, 422, /`recipients`: use a list/],
    ['a recipient that is none', { message: NEWS, recipients: [7] }, 422, /`recipients\[0\]`: use an object/],
    [
      'a field of none',
      { message: NEWS, recipients: [{ ...person, html: 'x' }] },
      422,
      /`recipients\[0\]\.html`/,
    ],
    ['no address', { message: NEWS, recipients: [{}] }, 422, /Missing `recipients\[0\]\.to`/],
    [
      'variables without a template',
      { message: NEWS, recipients: [{ ...person, variables: {} }] },
      422,
      /`recipients\[0\]\.variables`: the message has no `template`/,
    ],
    [
      'variables that cannot be stored',
      { message: templated, recipients: [{ ...person, variables: { a: ['\0'] } }] },
      422,
      /`recipients\[0\]\.variables\.a\[0\]`: it contains a NUL/,
    ],
    ['too many', { message: NEWS, recipients: recipients(10_001, 'toomany') }, 422, /at most 10000/],
    [
      'an unknown stream',
      { message: { ...NEWS, stream: 'x' }, recipients: [person] },
      422,
      /`message\.stream`/,
    ],
    ['a key given twice', `{"message":${JSON.stringify(NEWS)},"message":{}}`, 400, /`message` twice/],
    [
      'a key given twice deep down',
      `{"message":${JSON.stringify(NEWS)},"recipients":[{"to":"x@example.net","t\\u006f":"y@example.net"}]}`,
      400,
      /`to` twice/,
    ],
    ['a mark', `\ufeff${JSON.stringify({ message: NEWS, recipients: [person] })}`, 400, /byte-order mark/],
    ['half a body', `{"message":${JSON.stringify(NEWS)},"recipients":[{"to"`, 400, /not valid JSON/],
    ['more than a body', `{"message":${JSON.stringify(NEWS)},"recipients":[]}x`, 400, /not valid JSON/],
    ['nesting', `{"message":${'['.repeat(100)}`, 400, /more than 64 levels/],
    [
      'a large recipient',
      { message: templated, recipients: [{ to: 'x'.repeat(3_000_000) }] },
      413,
      /2097152/,
    ],
    [
      'a large body',
      { message: NEWS, recipients: recipients(1), x: 'x'.repeat(MAX_BULK_BYTES) },
      413,
      /BULK_BYTES/,
    ],
    [
      'mail that grows past the limit',
      { message: { ...NEWS, html: 'x'.repeat(1_000_000) }, recipients: recipients(500, 'grows') },
      413,
      /stored template/,
    ],
  ]
  for (const [what, body, status, message] of REFUSED) {
    test(`is refused: ${what}`, async () => {
      const refused = await bulk(body)
      assert.equal(refused.status, status, refused.answer.message)
      assert.match(refused.answer.message, message)
    })
  }

  test('nothing of what was refused is stored', async () => {
    for (const pattern of ['x@example.net', 'toomany%', 'grows%']) assert.equal(await stored(pattern), 0)
  })
})

describe('the key of a bulk', () => {
  test('gives the same answer again from any process, stores nothing twice, and refuses another body', async () => {
    const headers = { 'Idempotency-Key': 'news 7' }
    const body = { message: NEWS, recipients: recipients(1_100, 'keyed') }
    const elsewhere = await startTestService(quiet, { SLUICE_ROLES: 'api' })
    const answers = await Promise.all([
      bulk(body, headers),
      bulk(body, headers, elsewhere),
      bulk(JSON.stringify(body, null, 1), headers),
    ])
    assert.deepEqual(
      answers.map(({ status }) => status),
      [200, 200, 200],
    )
    assert.equal(new Set(answers.map(({ answer }) => JSON.stringify(answer))).size, 1)
    const replays = answers.filter(({ response }) => response.headers.get('Idempotent-Replayed') === 'true')
    assert.equal(replays.length, 2)
    assert.equal(await stored('keyed%'), 1_100)
    const other = await bulk({ ...body, recipients: recipients(1_099, 'keyed') }, headers, elsewhere)
    assert.deepEqual([other.status, other.answer.name], [409, 'invalid_idempotent_request'])
    assert.equal(await stored('keyed%'), 1_100)
  })
})

describe('a bulk while it comes in', () => {
  /** A request whose body the test writes piece by piece. */
  function open(headers: Record<string, string> = {}): {
    request: ClientRequest
    answered: Promise<Answered>
  } {
    const request = httpRequest(new URL('/emails/bulk', api.url), {
      method: 'POST',
      headers: { Authorization: `Bearer ${TEST_KEY}`, 'Content-Type': 'application/json', ...headers },
    })
    // A connection that we cut ourselves.
    request.on('error', () => undefined)
    const answered = once(request, 'response').then(async ([response]: IncomingMessage[]) => ({
      status: response?.statusCode ?? 0,
      retryAfter: response?.headers['retry-after'],
      body: JSON.parse(await text(response as IncomingMessage)) as Answer,
    }))
    answered.catch(() => undefined)
    return { request, answered }
  }
  type Answered = { status: number; retryAfter: string | undefined; body: Answer }
  const head = (count: number, prefix: string) =>
    `{"message":${JSON.stringify(NEWS)},"recipients":[${recipients(count, prefix)
      .map((each) => JSON.stringify(each))
      .join(',')}`

  async function openTransactions(): Promise<number> {
    const rows = await quiet.query(
      `select from pg_stat_activity
       where datname = current_database() and state = 'idle in transaction' and query like '/* intake.append_durably%'`,
    )
    return rows.length
  }

  test('is stored as it arrives, and is not to be seen before its end', async () => {
    const { request, answered } = open()
    request.write(head(600, 'early'))
    await eventually('a transaction that waits for more', async () => (await openTransactions()) === 1)
    assert.equal(await stored('early%'), 0)
    request.end(']}')
    const { status, body } = await answered
    assert.deepEqual([status, body.accepted], [200, 600])
    assert.equal(await stored('early%'), 600)
  })

  test('holds no connection for less than one piece', async () => {
    const { request, answered } = open()
    request.write(head(100, 'small'))
    // Another one is served from end to end meanwhile.
    assert.equal((await bulk({ message: NEWS, recipients: recipients(1, 'between') })).status, 200)
    assert.equal(await openTransactions(), 0)
    request.end(']}')
    assert.equal((await answered).status, 200)
  })

  test('leaves nothing when its sender goes away', async () => {
    const { request } = open()
    request.write(head(600, 'gone'))
    await eventually('a transaction that waits for more', async () => (await openTransactions()) === 1)
    request.destroy()
    await eventually('the transaction is gone', async () => (await openTransactions()) === 0)
    assert.equal(await stored('gone%'), 0)
  })

  test('has two at most beside it: a third is told to come later', async () => {
    const held = [open(), open()]
    for (const { request } of held) request.write(head(600, 'slots'))
    await eventually('two under way', async () => (await openTransactions()) === 2)
    const third = await bulk({ message: NEWS, recipients: recipients(1, 'third') })
    assert.deepEqual([third.status, third.answer.name], [429, 'rate_limit_exceeded'])
    assert.ok(Number(third.response.headers.get('Retry-After')) > 0)
    const waiting = bulk({ message: NEWS, recipients: recipients(1, 'fourth') })
    for (const { request } of held) request.end(']}')
    assert.deepEqual(
      (await Promise.all(held.map(({ answered }) => answered))).map(({ status }) => status),
      [200, 200],
    )
    assert.equal((await waiting).status, 200, 'one that waits gets the place of one that ends')
  })
})

test('a bulk is taken by a process whose memory could not hold it', async (t) => {
  const own = await createTestDatabase(t)
  const small = await spawnService(t, own.url, {
    SLUICE_ROLES: 'api',
    LOG_LEVEL: 'info',
    NODE_OPTIONS: `--max-old-space-size=${HEAP_MB}`,
  })
  const message = { from: 'news@example.com', template: { id: 'news' } }
  const variables = Object.fromEntries(
    Array.from({ length: 100 }, (_, n) => [`field ${n}`, `value ${n}`.repeat(3)]),
  )
  const list = Array.from({ length: 10_000 }, (_, n) => ({ to: `large${n}@example.net`, variables }))
  const body = JSON.stringify({ message, recipients: list })
  assert.ok(body.length > 30_000_000, `${body.length} characters`)
  const response = await small.request('/emails/bulk', { body })
  const answer = (await response.json()) as Answer
  assert.deepEqual([response.status, answer.accepted], [200, 10_000], answer.message)
  const status = await readFile(`/proc/${small.pid}/status`, 'utf8').catch(() => '')
  t.diagnostic(
    `${Math.round(body.length / 1e6)} MB came in; at most resident: ${/VmHWM:\s*(.*)/.exec(status)?.[1]}`,
  )
})
