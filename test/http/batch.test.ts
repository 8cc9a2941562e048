import assert from 'node:assert/strict'
import { before, describe, test } from 'node:test'
import { Resend } from 'resend'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { orderMail, startTestService, TEST_KEY, type TestService } from '../support/service.ts'
import { type SmtpSink, startSmtpSink } from '../support/smtp-sink.ts'

let database: TestDatabase
let sink: SmtpSink
let service: TestService
/** A second process in effect: its own pool, mover and verdicts over the same database. */
let other: TestService

before(async (t) => {
  const context = t as Parameters<typeof createTestDatabase>[0]
  sink = await startSmtpSink(context)
  database = await createTestDatabase(context)
  service = await startTestService(database, { SMTP_URL: sink.url })
  other = await startTestService(database, { SMTP_URL: sink.url, SLUICE_ROLES: 'api' })
})

type Answer = {
  data: { id: string }[]
  errors?: { index: number; message: string }[]
  name?: string
  message?: string
}

async function batch(body: unknown, headers: Record<string, string> = {}, to: TestService = service) {
  const response = await to.request('/emails/batch', { body, headers })
  return { response, status: response.status, answer: (await response.json()) as Answer }
}

function mails(subject: string, count: number): object[] {
  return Array.from({ length: count }, (_, n) => orderMail({ subject: `${subject} ${n}.` }))
}

function arrived(subject: string): number {
  return sink.mails.filter(({ raw }) => raw.includes(`Subject: ${subject}`)).length
}

async function storedUnder(subject: string): Promise<number> {
  const [row] = await database.query<{ count: number }>(
    `select (select count(*) from mail.message_content where message ->> 'subject' like $1)::integer
       + (select count(*) from mail.outbox where message ->> 'subject' like $1)::integer as count`,
    [`${subject}%`],
  )
  return row?.count ?? 0
}

describe('a batch', () => {
  test('sent by the official SDK arrives, with ids in the order given', async () => {
    const resend = new Resend(TEST_KEY, { baseUrl: service.url ?? '' })
    const { data, error } = await resend.batch.send(
      ['First of SDK', 'Second of SDK'].map((subject) => ({
        from: 'Shop <shop@example.com>',
        to: ['ann@example.net'],
        subject,
        html: '<p>Hello.</p>',
        replyTo: 'help@example.com',
      })),
      { idempotencyKey: 'sdk' },
    )
    assert.equal(error, null)
    assert.equal(data?.data.length, 2)
    await eventually('both mails', async () => arrived('First of SDK') + arrived('Second of SDK') === 2)
    const second = await service.request(`/emails/${data?.data[1]?.id}`)
    assert.equal(((await second.json()) as { subject: string }).subject, 'Second of SDK')
  })

  test('is durable when it is answered', async () => {
    const { response, answer } = await batch(mails('Durable', 100))
    assert.equal(response.headers.get('Sluice-Durability'), 'durable')
    const [row] = await database.query<{ count: number }>(
      `select count(*)::integer from (
         select id from mail.outbox union select id from mail.message
       ) logged where id = any ($1)`,
      [answer.data.map(({ id }) => id)],
    )
    assert.equal(row?.count, 100)
    await eventually('all mails', async () => arrived('Durable') === 100)
  })

  test('may hold mail for later', async () => {
    const { status, answer } = await batch([orderMail({ scheduled_at: 'in 1 hour' }), orderMail()])
    assert.equal(status, 200, answer.message)
    await eventually('it is scheduled', async () => {
      const rows = await database.query(
        "select from mail.message where id = $1 and status = 'scheduled' and scheduled_at > now() + interval '59 minutes'",
        [answer.data[0]?.id],
      )
      return rows.length === 1
    })
  })

  test('with one bad entry sends nothing, and names the entry and its field', async () => {
    const body = [...mails('Strict', 3), orderMail({ to: ['ann@example.net', 'nobody'] })]
    const { status, answer } = await batch(body)
    assert.deepEqual([status, answer.name], [422, 'validation_error'])
    assert.match(answer.message ?? '', /^Invalid `\[3\]\.to\[1\]`: /)
    assert.equal(await storedUnder('Strict'), 0)
    const wrong = await batch([7])
    assert.match(wrong.answer.message ?? '', /^Invalid `\[0\]`: it is a number/)
    const stream = await batch([orderMail({ stream: 'nowhere' })])
    assert.match(stream.answer.message ?? '', /^Invalid `\[0\]\.stream`: there is no stream `nowhere`/)
  })

  test('that is permissive leaves the bad entries out and lists them', async () => {
    const [first, last] = mails('Permissive', 2)
    const permissive = { 'x-batch-validation': 'permissive' }
    const { status, answer } = await batch([first, { to: 'a@example.com' }, last], permissive)
    assert.deepEqual([status, answer.data.length, answer.errors?.length], [200, 2, 1])
    assert.equal(answer.errors?.[0]?.index, 1)
    assert.match(answer.errors?.[0]?.message ?? '', /^Missing `\[1\]\.from`/)
    await eventually('the good ones', async () => arrived('Permissive') === 2)
    const none = await batch([{}], permissive)
    assert.deepEqual([none.status, none.answer.data, none.answer.errors?.length], [200, [], 1])
    const good = await batch(mails('All good', 1), permissive)
    assert.deepEqual(good.answer.errors, [])
  })

  test('of none, of 101, of no list or with another mode is refused', async () => {
    assert.match((await batch([])).answer.message ?? '', /0 emails; use 1 to 100/)
    assert.match((await batch(mails('Many', 101))).answer.message ?? '', /101 emails.*bulk/)
    assert.match((await batch(orderMail())).answer.message ?? '', /use a list/)
    const mode = await batch(mails('Mode', 1), { 'x-batch-validation': 'lax' })
    assert.deepEqual([mode.status, mode.answer.name], [422, 'validation_error'])
    assert.match(mode.answer.message ?? '', /`strict` or `permissive`/)
  })
})

describe('the key of a batch', () => {
  test('repeated with the same body gives the same answer from any process, and no second mail', async () => {
    const key = { 'Idempotency-Key': 'batch same', 'x-batch-validation': 'permissive' }
    const body = [...mails('Same batch', 2), { to: 'x' }]
    const first = await batch(body, key)
    const reordered = body.map((entry) => Object.fromEntries(Object.entries(entry).reverse()))
    for (const each of [service, other]) {
      const again = await batch(reordered, key, each)
      assert.deepEqual(again.answer, first.answer)
      assert.equal(again.response.headers.get('Idempotent-Replayed'), 'true')
      assert.equal(again.response.headers.get('Sluice-Durability'), 'durable')
    }
    assert.equal(first.response.headers.get('Idempotent-Replayed'), null)
    await eventually('the mails', async () => arrived('Same batch') === 2)
    assert.equal(await storedUnder('Same batch'), 2)
  })

  test('with another body or another mode is 409', async () => {
    const key = { 'Idempotency-Key': 'batch other' }
    await batch(mails('Key', 2), key)
    for (const [body, headers] of [
      [mails('Key', 1), key],
      [mails('Key', 2).reverse(), key],
      [mails('Key', 2), { ...key, 'x-batch-validation': 'permissive' }],
    ] as const) {
      const { status, answer } = await batch(body, headers)
      assert.deepEqual([status, answer.name], [409, 'invalid_idempotent_request'])
    }
  })

  test('in many requests of one moment, over two processes, gives one batch', async () => {
    const key = { 'Idempotency-Key': 'batch rush' }
    const body = mails('Rush batch', 5)
    const answers = await Promise.all(
      Array.from({ length: 16 }, (_, n) => batch(body, key, n % 2 === 0 ? service : other)),
    )
    assert.deepEqual(new Set(answers.map(({ status }) => status)), new Set([200]))
    assert.equal(new Set(answers.map(({ answer }) => JSON.stringify(answer.data))).size, 1)
    const firsts = answers.filter(({ response }) => response.headers.get('Idempotent-Replayed') === null)
    assert.equal(firsts.length, 1)
    await eventually('five mails', async () => arrived('Rush batch') === 5)
    assert.equal(await storedUnder('Rush batch'), 5)
  })

  test('of a refused batch is still free, and an expired one can be used again', async () => {
    const key = { 'Idempotency-Key': 'batch free' }
    assert.equal((await batch([{}], key)).status, 422)
    assert.deepEqual((await batch([{}], { ...key, 'x-batch-validation': 'permissive' })).answer.data, [])
    const first = await batch(mails('Free', 1), key)
    assert.equal(first.response.headers.get('Idempotent-Replayed'), null)
    await database.query("update mail.idempotency set expires_at = now() where key = 'batch free'")
    const again = await batch(mails('Another day', 1), key)
    assert.deepEqual([again.status, again.response.headers.get('Idempotent-Replayed')], [200, null])
    assert.notDeepEqual(again.answer.data, first.answer.data)
  })

  test('means one thing over every door', async () => {
    const mail = orderMail({ subject: 'One door' })
    await service.request('/emails', { body: mail, headers: { 'Idempotency-Key': 'door' } })
    assert.equal((await batch([mail], { 'Idempotency-Key': 'door' })).status, 409)
    await batch([mail], { 'Idempotency-Key': 'batch door' })
    const single = await service.request('/emails', {
      body: mail,
      headers: { 'Idempotency-Key': 'batch door' },
    })
    assert.equal(single.status, 409)
    await assert.rejects(database.query('select mail.send($1, $2)', [JSON.stringify(mail), 'batch door']), {
      code: '23505',
    })
  })
})
