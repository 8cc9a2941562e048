import assert from 'node:assert/strict'
import { before, describe, test } from 'node:test'
import { Client } from 'pg'
import { createKey } from '../../src/keys/keys.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { orderMail, startTestService, type TestService } from '../support/service.ts'
import { type SmtpSink, startSmtpSink } from '../support/smtp-sink.ts'

let database: TestDatabase
let sink: SmtpSink
let service: TestService
/** A second service over the same database, whose mover competes for every row. */
let other: TestService

before(async (t) => {
  const context = t as Parameters<typeof createTestDatabase>[0]
  sink = await startSmtpSink(context)
  database = await createTestDatabase(context)
  service = await startTestService(database, { SMTP_URL: sink.url })
  other = await startTestService(database, { SMTP_URL: sink.url, SLUICE_ROLES: 'api' })
})

type View = {
  id: string
  status: string
  last_event: string
  error: { code: string; reason: string } | null
  timeline: { at: string; type: string; detail: Record<string, unknown> | null }[]
} & Record<string, unknown>

async function send(
  body: unknown,
  headers: Record<string, string> = {},
  to: TestService = service,
): Promise<{ id: string; response: Response }> {
  const response = await to.request('/emails', { body, headers })
  const answer = (await response.json()) as { id: string }
  assert.equal(response.status, 200, JSON.stringify(answer))
  return { id: answer.id, response }
}

async function show(id: string): Promise<View> {
  const response = await service.request(`/emails/${id}`)
  assert.equal(response.status, 200)
  return (await response.json()) as View
}

function whenShown(id: string, status: string): Promise<View> {
  return eventually(`${id} is ${status}`, async () => {
    const response = await service.request(`/emails/${id}`)
    const view = (await response.json()) as View
    return view.status === status && view
  })
}

function mailsWith(text: string): number {
  return sink.mails.filter(({ raw }) => raw.includes(text)).length
}

/** Everything handed in has been moved, processed and sent. */
function whenIdle(): Promise<true> {
  return eventually('nothing waits', async () => {
    const [row] = await database.query<{ is_idle: boolean }>(
      `select not exists (select from mail.intake) and not exists (select from mail.outbox)
         and not exists (select from mail.message where status not in ('sent', 'dead', 'suppressed')) as is_idle`,
    )
    return row?.is_idle === true && true
  })
}

const UUID7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/

describe('a message posted over REST', () => {
  test('is answered durably, arrives once, and can be followed to its end', async () => {
    const { id, response } = await send(orderMail({ subject: 'Followed', metadata: { order: '7' } }))
    assert.equal(response.headers.get('Sluice-Durability'), 'durable')
    assert.equal(response.headers.get('Idempotent-Replayed'), null)
    assert.match(id, UUID7)
    const rows = await database.query('select 1 from mail.message where id = $1', [id])
    assert.equal(rows.length, 1, 'durable means that it is in a logged table by now')

    const view = await whenShown(id, 'sent')
    assert.equal(mailsWith('Subject: Followed'), 1)
    assert.deepEqual(
      view.timeline.map(({ type }) => type),
      ['accepted', 'queued', 'sent'],
    )
    assert.deepEqual([...view.timeline.map(({ at }) => Date.parse(at))].sort(), [
      ...view.timeline.map(({ at }) => Date.parse(at)),
    ])
    const { object, from, to, subject, html, text, last_event, metadata, attempts, error } = view
    assert.deepEqual(
      { object, from, to, subject, html, text, last_event, metadata, attempts, error },
      {
        ...orderMail({ subject: 'Followed' }),
        object: 'email',
        last_event: 'sent',
        metadata: { order: '7' },
        attempts: 1,
        error: null,
      },
    )
  })

  test('is answered buffered when the caller asks for that, and arrives all the same', async () => {
    const { id, response } = await send(orderMail({ subject: 'Buffered' }), {
      'Sluice-Durability': 'buffered',
    })
    assert.equal(response.headers.get('Sluice-Durability'), 'buffered')
    // At the door or moved: it can be followed from the moment of the answer.
    assert.ok(['accepted', 'queued', 'sending', 'sent'].includes((await show(id)).status))
    await whenShown(id, 'sent')
    assert.equal(mailsWith('Subject: Buffered'), 1)
  })

  test('has an id that is a UUID of version 7, greater than those before it', async () => {
    const ids: string[] = []
    for (let n = 0; n < 5; n += 1) ids.push((await send(orderMail({ subject: 'Ordered' }))).id)
    assert.ok(ids.every((id) => UUID7.test(id)))
    assert.deepEqual([...ids].sort(), ids)
  })

  test('is durable at once though many processes compete for it', async () => {
    const sent = await Promise.all(
      Array.from({ length: 60 }, (_, n) =>
        send(orderMail({ subject: `Competing ${n}.` }), {}, n % 2 === 0 ? service : other),
      ),
    )
    const ids = sent.map(({ id }) => id)
    assert.ok(sent.every(({ response }) => response.headers.get('Sluice-Durability') === 'durable'))
    const rows = await database.query('select id from mail.message where id = any ($1)', [ids])
    assert.equal(rows.length, 60)
    await whenIdle()
    for (let n = 0; n < 60; n += 1) assert.equal(mailsWith(`Subject: Competing ${n}.`), 1)
  })

  test('is 503 and not durable while no mover can commit, and arrives afterwards', async () => {
    const hasty = await startTestService(database, { SMTP_URL: sink.url, SLUICE_ACCEPT_TIMEOUT_MS: '300' })
    const blocker = new Client({ connectionString: database.url })
    await blocker.connect()
    try {
      await blocker.query('begin')
      await blocker.query('lock table mail.message_content in share mode')
      const refused = await hasty.request('/emails', { body: orderMail({ subject: 'Blocked' }) })
      assert.equal(refused.status, 503)
      assert.ok(Number(refused.headers.get('Retry-After')) > 0)
      assert.equal(refused.headers.get('Sluice-Durability'), null)
      assert.equal(((await refused.json()) as { name: string }).name, 'service_unavailable')
      const wish = { 'Sluice-Durability': 'buffered', 'Idempotency-Key': 'blocked' }
      const buffered = await send(orderMail({ subject: 'Allowed' }), wish, hasty)
      assert.equal(buffered.response.headers.get('Sluice-Durability'), 'buffered')
      await blocker.query('rollback')
    } finally {
      await blocker.end()
      await hasty.stop()
    }
    await whenIdle()
    assert.deepEqual([mailsWith('Subject: Blocked'), mailsWith('Subject: Allowed')], [1, 1])
  })

  test('from a key whose long name ends in the middle of a character harms nobody', async () => {
    const { key } = await createKey(service.db, { name: `${'x'.repeat(191)}🔑`, scope: 'send' })
    const { id } = await send(orderMail(), { Authorization: `Bearer ${key}` })
    await whenShown(id, 'sent')
  })
})

describe('a dead message', () => {
  test('shows where and why it died, whatever was given', async () => {
    const given = [
      'null',
      '{"from":null,"to":"ann@example.net"}',
      '{"from":{"name":5},"to":[{}],"cc":7,"tags":{}}',
      '{"from":{"address":"a@example.com"},"to":"ann@example.net","subject":{}}',
      JSON.stringify(orderMail({ stream: 'nowhere' })),
    ]
    for (const message of given) {
      const [row] = await database.query<{ id: string }>(
        'insert into mail.outbox (message) values ($1) returning id',
        [message],
      )
      const view = await whenShown(row?.id ?? '', 'dead')
      assert.equal(view.last_event, 'failed')
      assert.ok(view.error?.reason, message)
      assert.deepEqual(
        view.timeline.map(({ type, detail }) => [type, detail?.stage, detail?.code]),
        [['dead', 'intake', view.error?.code]],
      )
    }
  })

  test('that processing refused keeps its fields and names the fault', async () => {
    const { id } = await send({ from: 'a@example.com', to: 'b@example.com', template: { id: 'no-such' } })
    const view = await whenShown(id, 'dead')
    assert.equal(view.error?.code, 'template_not_found')
    assert.deepEqual([view.from, view.to], ['a@example.com', ['b@example.com']])
    assert.deepEqual(
      view.timeline.map(({ type }) => type),
      ['accepted', 'dead'],
    )
  })
})

describe('an idempotency key', () => {
  test('with the same body gives the first answer again, and one mail', async () => {
    const key = { 'Idempotency-Key': 'same' }
    const body = orderMail({ subject: 'Same key' })
    const first = await send(body, key)
    const again = await send(Object.fromEntries(Object.entries(body).reverse()), key, other)
    assert.equal(again.id, first.id)
    assert.equal(again.response.headers.get('Idempotent-Replayed'), 'true')
    assert.equal(again.response.headers.get('Sluice-Durability'), 'durable')
    await whenIdle()
    assert.equal(mailsWith('Subject: Same key'), 1)
    const { timeline } = await show(first.id)
    assert.equal(timeline.filter(({ type }) => type === 'replayed').length, 1)
  })

  test('with another body is 409, for a durable and a buffered request alike', async () => {
    await send(orderMail({ subject: 'First use' }), { 'Idempotency-Key': 'taken' })
    for (const durability of ['durable', 'buffered']) {
      for (const each of [service, other]) {
        const response = await each.request('/emails', {
          body: orderMail({ subject: 'Second use' }),
          headers: { 'Idempotency-Key': 'taken', 'Sluice-Durability': durability },
        })
        assert.equal(response.status, 409)
        assert.equal(((await response.json()) as { name: string }).name, 'invalid_idempotent_request')
      }
    }
    await whenIdle()
    assert.equal(mailsWith('Subject: Second use'), 0)
  })

  test('in many requests of one moment, over two services, gives exactly one mail', async () => {
    const key = { 'Idempotency-Key': 'rush' }
    const sent = await Promise.all(
      Array.from({ length: 50 }, (_, n) =>
        send(orderMail({ subject: 'Rush' }), key, n % 2 === 0 ? service : other),
      ),
    )
    assert.equal(new Set(sent.map(({ id }) => id)).size, 1)
    assert.equal(
      sent.filter(({ response }) => response.headers.get('Idempotent-Replayed') === null).length,
      1,
      'one is the first, the rest are replays',
    )
    await whenIdle()
    assert.equal(mailsWith('Subject: Rush'), 1)
  })

  test('means the same over REST and over every door of SQL', async () => {
    const body = orderMail({ subject: 'Every door' })
    const { id } = await send(body, { 'Idempotency-Key': 'doors' })
    const [sent] = await database.query<{ id: string }>('select mail.send($1, $2) as id', [
      JSON.stringify(body),
      'doors',
    ])
    assert.equal(sent?.id, id)
    for (const door of ['intake', 'outbox']) {
      await database.query(`insert into mail.${door} (message, idempotency_key) values ($1, 'doors')`, [
        JSON.stringify(body, null, 2),
      ])
    }
    await whenIdle()
    assert.equal(mailsWith('Subject: Every door'), 1)
    await assert.rejects(
      database.query('select mail.send($1, $2)', [JSON.stringify(orderMail({ subject: 'Other' })), 'doors']),
      { code: '23505', message: /idempotency key doors was used with another message/ },
    )
  })

  test('first used by mail.send is known to REST, before and after the mover', async () => {
    const body = orderMail({ subject: 'SQL first' })
    const query = 'select mail.send($1, $2) as id'
    const [sent] = await database.query<{ id: string }>(query, [JSON.stringify(body), 'sql first'])
    const again = await send(body, { 'Idempotency-Key': 'sql first' })
    assert.equal(again.id, sent?.id)
    assert.equal(again.response.headers.get('Idempotent-Replayed'), 'true')
    const conflict = await service.request('/emails', {
      body: orderMail({ subject: 'Not this' }),
      headers: { 'Idempotency-Key': 'sql first' },
    })
    assert.equal(conflict.status, 409)
    await whenIdle()
    assert.equal(mailsWith('Subject: SQL first'), 1)
  })

  test('used by SQL for another message makes a dead letter that says so', async () => {
    await send(orderMail(), { 'Idempotency-Key': 'sql conflict' })
    const [row] = await database.query<{ id: string }>(
      "insert into mail.outbox (message, idempotency_key) values ($1, 'sql conflict') returning id",
      [JSON.stringify(orderMail({ subject: 'Conflicting' }))],
    )
    const view = await whenShown(row?.id ?? '', 'dead')
    assert.equal(view.error?.code, 'idempotency_conflict')
    assert.equal(mailsWith('Subject: Conflicting'), 0)
  })

  test('first used by an insert, into either door, is known to REST', async () => {
    for (const door of ['intake', 'outbox']) {
      const body = orderMail({ subject: `Insert into ${door} first` })
      const [row] = await database.query<{ id: string }>(
        `insert into mail.${door} (message, idempotency_key) values ($1, $2) returning id`,
        [JSON.stringify(body), `insert ${door}`],
      )
      await whenShown(row?.id ?? '', 'sent')
      const again = await send(body, { 'Idempotency-Key': `insert ${door}` }, other)
      assert.deepEqual([again.id, again.response.headers.get('Idempotent-Replayed')], [row?.id, 'true'])
    }
  })

  test('beyond ASCII is the same text over REST and SQL', async () => {
    const body = orderMail({ subject: 'Key beyond ASCII' })
    const key = 'Bestätigung №7'
    // As most clients send it: a header's bytes are the UTF-8 of its text.
    const { id } = await send(body, { 'Idempotency-Key': Buffer.from(key).toString('latin1') })
    const [sent] = await database.query<{ id: string }>('select mail.send($1, $2) as id', [
      JSON.stringify(body),
      key,
    ])
    assert.equal(sent?.id, id)
    const long = Buffer.from('é'.repeat(256)).toString('latin1')
    await send(orderMail(), { 'Idempotency-Key': long })
    const response = await service.request('/emails', {
      body: orderMail(),
      headers: { 'Idempotency-Key': `${long}x` },
    })
    assert.deepEqual(
      [response.status, ((await response.json()) as { name: string }).name],
      [400, 'invalid_idempotency_key'],
    )
  })

  test('is remembered for 24 hours', async () => {
    await send(orderMail(), { 'Idempotency-Key': 'a day' })
    const [row] = await database.query<{ hours: number }>(
      `select extract(epoch from expires_at - created_at) / 3600 as hours from mail.idempotency where key = 'a day'`,
    )
    assert.equal(Number(row?.hours), 24)
  })

  test('of a refused message is still free', async () => {
    const key = { 'Idempotency-Key': 'refused first' }
    const refused = await service.request('/emails', { body: orderMail({ to: 'nobody' }), headers: key })
    assert.equal(refused.status, 422)
    const { response } = await send(orderMail(), key)
    assert.equal(response.headers.get('Idempotent-Replayed'), null)
  })

  test('can be used again when it has expired', async () => {
    const key = { 'Idempotency-Key': 'yesterday' }
    const first = await send(orderMail(), key)
    await database.query("update mail.idempotency set expires_at = now() where key = 'yesterday'")
    const again = await send(orderMail({ subject: 'Today' }), key)
    assert.notEqual(again.id, first.id)
    assert.equal(again.response.headers.get('Idempotent-Replayed'), null)
  })
})

describe('mail handed in by SQL', () => {
  test('arrives from the intake, the outbox and mail.send, which returns its id', async () => {
    for (const door of ['intake', 'outbox']) {
      await database.query(`insert into mail.${door} (message) values ($1)`, [
        JSON.stringify(orderMail({ subject: `From ${door}` })),
      ])
    }
    const [sent] = await database.query<{ id: string }>('select mail.send($1) as id', [
      JSON.stringify(orderMail({ subject: 'From send' })),
    ])
    const view = await whenShown(sent?.id ?? '', 'sent')
    assert.equal(view.subject, 'From send')
    await whenIdle()
    for (const door of ['intake', 'outbox', 'send']) assert.equal(mailsWith(`Subject: From ${door}`), 1)
  })

  test('goes with the caller’s transaction: a rollback leaves nothing, a commit arrives', async () => {
    const client = new Client({ connectionString: database.url })
    await client.connect()
    try {
      for (const end of ['rollback', 'commit']) {
        await client.query('begin')
        await client.query('insert into mail.outbox (message) values ($1)', [
          JSON.stringify(orderMail({ subject: `Order ${end}` })),
        ])
        await client.query('select mail.send($1, $2)', [
          JSON.stringify(orderMail({ subject: `Sent ${end}` })),
          'transaction',
        ])
        await client.query(end)
      }
    } finally {
      await client.end()
    }
    await whenIdle()
    assert.deepEqual([mailsWith('Subject: Order rollback'), mailsWith('Subject: Sent rollback')], [0, 0])
    assert.deepEqual([mailsWith('Subject: Order commit'), mailsWith('Subject: Sent commit')], [1, 1])
  })

  test('mail.send refuses at once what cannot be a message', async () => {
    for (const message of ['[]', '7', 'null', '{}', '{"from":"a@example.com"}']) {
      await assert.rejects(database.query('select mail.send($1)', [message]), { code: '22023' }, message)
    }
  })
})
