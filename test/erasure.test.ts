import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { purgeAttachments } from '../src/upkeep/queries.ts'
import { tablesWith } from './support/canary.ts'
import { createTestDatabase, type TestDatabase } from './support/database.ts'
import { eventually } from './support/eventually.ts'
import { apply, eventOf, insertMessages, openTestPool, statusOf } from './support/feedback.ts'
import { deadLetterOf, post, untilStatus } from './support/messages.ts'
import { insertOld, makePartitions, retainAll } from './support/retention.ts'
import { startTestService, TEST_KEY, type TestService } from './support/service.ts'
import { startSmtpSink } from './support/smtp-sink.ts'

const CANARY = 'canary7q3x'
const ANN = `${CANARY}@example.net`

type Erased = { readonly what: string; readonly rows: number; readonly is_left: boolean }

function erase({ query }: Pick<TestDatabase, 'query'>, address = ANN): Promise<Erased[]> {
  return query('select what, rows::integer as rows, is_left from mail.erase($1)', [address])
}

/** A message that has the canary wherever a message can have one. */
const CANARY_MAIL = {
  to: [`${CANARY} <${ANN}>`],
  subject: `Hello ${CANARY}`,
  html: `<p>Hello ${CANARY}</p>`,
  text: `Hello ${CANARY}`,
  reply_to: `Shop for ${CANARY} <shop@example.com>`,
  headers: { 'X-Customer': CANARY },
  tags: [{ name: 'customer', value: CANARY }],
  metadata: { customer: CANARY },
  attachments: [
    { filename: `${CANARY}.txt`, content: Buffer.from(`Invoice of ${CANARY}`).toString('base64') },
  ],
}

async function publishTemplate(service: TestService): Promise<void> {
  const body = {
    name: 'welcome',
    from: 'Shop <shop@example.com>',
    subject: 'For {{ name }}',
    html: 'Hi {{ name }}',
  }
  const { id } = (await (await service.request('/templates', { body })).json()) as { id: string }
  await service.request(`/templates/${id}/publish`, { method: 'POST' })
}

async function reportBounce(service: TestService, id: string): Promise<void> {
  const report = [
    'From: MAILER-DAEMON@mx.example.net',
    'To: shop@example.com',
    `Subject: Undelivered: Hello ${CANARY}`,
    'MIME-Version: 1.0',
    'Content-Type: multipart/report; report-type=delivery-status; boundary="b"',
    '',
    '--b',
    'Content-Type: text/plain',
    '',
    `<${ANN}>: unknown user "${CANARY}"`,
    '--b',
    'Content-Type: message/delivery-status',
    '',
    'Reporting-MTA: dns; mx.example.net',
    '',
    `Final-Recipient: rfc822; ${ANN}`,
    'Action: failed',
    'Status: 5.1.1',
    `Diagnostic-Code: smtp; 550 5.1.1 no ${CANARY} here`,
    '--b',
    'Content-Type: text/rfc822-headers',
    '',
    `Message-ID: <${id}@example.com>`,
    `Subject: Hello ${CANARY}`,
    '--b--',
    '',
  ].join('\r\n')
  const response = await fetch(new URL('/webhooks/dsn', service.url), {
    method: 'POST',
    headers: { Authorization: `Bearer ${TEST_KEY}`, 'Content-Type': 'message/rfc822' },
    body: report,
  })
  assert.equal(response.status, 200)
}

/** What no test can make happen at the right moment, as it lies in the tables. */
async function plantRest({ query }: TestDatabase): Promise<void> {
  await query(
    `insert into mail.inbox (mail_from, recipients, size_bytes, subject, raw)
     values ('shop@example.com', array[$1], 4, $2, 'mail')`,
    [ANN, `Hello ${CANARY}`],
  )
  await query(
    `insert into mail.feedback (endpoint, kind, event_key, state, reason, body)
     values ('x', 'sendgrid', '1', 'parked', 'no', convert_to($1, 'UTF8')),
       ('x', 'sendgrid', '2', 'applied', null, convert_to($2, 'UTF8'))`,
    [`[{"email":"${ANN}","name":"${CANARY}"}]`, `email=${encodeURIComponent(ANN)}&name=${CANARY}`],
  )
  await query(`insert into mail.feedback_unmatched (provider, key, event) values ('', 'x', $1)`, [
    JSON.stringify({ recipient: ANN, detail: { reason: CANARY } }),
  ])
  await query(
    `insert into mail.idempotency (scope, key, fingerprint, message_ids, expires_at)
     values ('send', $1, '', array[gen_random_uuid()], now() + interval '1 h')`,
    [`welcome-${ANN}`],
  )
  await query("insert into mail.provider_event (provider, type, reason) values ('default', 'blocked', $1)", [
    `450 4.7.1 <${ANN}>: too many for ${CANARY}`,
  ])
  await query(
    `with alert as (
       insert into mail.alert (rule, subject, severity, since, value, worst_value, threshold, what, command, page)
       values ('x', '', 'warning', now(), 1, 1, 0, $1, 'select 1;', '/') returning what
     ), target as (
       insert into mail.alert_target (name, kind, url) values ('x', 'slack', 'https://hooks.example.com') returning id
     )
     insert into mail.alert_delivery (target_id, state, alerts)
     select target.id, 'sent', jsonb_build_array(jsonb_build_object('rule', 'x', 'what', alert.what)) from alert, target`,
    [`a transaction of <${ANN}>, ${CANARY}`],
  )
  await query("select mail.suppress('bob@example.org', evidence => $1)", [
    JSON.stringify({ rule: 'hard', reason: `550 not ${ANN}, not ${CANARY}` }),
  ])
}

test('a person who went through everything is in no column of any table afterwards, and still on the list', async (t) => {
  const database = await createTestDatabase(t)
  const words = `<${ANN}>: ${CANARY}`
  const replies = new Map([
    ['refused', { code: 550, text: `5.7.1 ${words} is not for you` }],
    ['deferred', { code: 451, text: `4.2.0 ${words} comes later` }],
  ])
  const sink = await startSmtpSink(t, {
    onMail: ({ raw }) => [...replies].find(([word]) => raw.includes(`X-Case: ${word}`))?.[1],
  })
  await database.query("select mail.webhook_create('https://app.example.com/hooks')")
  const service = await startTestService(database, { SMTP_URL: sink.url })
  await publishTemplate(service)

  const sent = await post(service, CANARY_MAIL)
  const shared = await post(service, { ...CANARY_MAIL, to: [ANN, 'bob@example.org'] })
  const bccOnly = await post(service, { ...CANARY_MAIL, to: ['bob@example.org'], bcc: [ANN] })
  const refused = await post(service, { ...CANARY_MAIL, headers: { 'X-Case': 'refused' } })
  const deferred = await post(service, { ...CANARY_MAIL, headers: { 'X-Case': 'deferred' } })
  const scheduled = await post(service, { ...CANARY_MAIL, scheduled_at: 'in 1 hour' })
  const waitingShared = await post(service, {
    to: [ANN, 'bob@example.org'],
    scheduled_at: 'in 1 hour',
  })
  const templated = await service.request('/emails', {
    body: { to: ANN, template: { id: 'welcome', variables: { name: CANARY } } },
    headers: { 'Idempotency-Key': `template-${CANARY}` },
  })
  const { id: rendered } = (await templated.json()) as { id: string }
  const [unreadable] = await database.query<{ id: string }>(
    'insert into mail.outbox (message) values ($1) returning id',
    [JSON.stringify({ ...CANARY_MAIL, from: CANARY })],
  )
  for (const id of [sent, shared, bccOnly, rendered]) await untilStatus(database, id, 'sent')
  for (const id of [refused, unreadable?.id ?? '']) await deadLetterOf(database, id)
  await untilStatus(database, deferred, 'deferred')
  await reportBounce(service, sent)
  await untilStatus(database, sent, 'bounced')
  await plantRest(database)
  await eventually('the app is told of all of it, and the day is counted', async () => {
    const told = await database.query(
      "select from mail.webhook_delivery where message_id = $1 and type = 'email.bounced'",
      [sent],
    )
    const counted = await database.query("select from mail.stat where tag <> '' and bounced > 0")
    const [rest] = await database.query<{ events: number }>(
      "select count(*)::integer as events from mail.consumer c, mail.read_events(c.cursor) where c.name in ('stats', 'webhooks')",
    )
    return told.length > 0 && counted.length > 0 && rest?.events === 0
  })
  // The name of the column it would be found by, were the scan blind.
  const before = await tablesWith(database, CANARY)
  for (const table of ['mail.feedback', 'mail.attachment', 'mail.stat', 'mail.suppression', 'mail.inbox']) {
    assert.ok(before.includes(table), `${table} is not in ${before.join(', ')}`)
  }

  const answer = await service.request('/erasures', { body: { address: ANN.toUpperCase() } })
  const { complete, erased } = (await answer.json()) as { complete: boolean; erased: Erased[] }
  assert.equal(answer.status, 200)
  assert.equal(complete, true)
  const rowsOf = (what: string) => erased.find((each) => each.what === what)?.rows
  assert.deepEqual(
    ['message', 'message: to others as well', 'attachment', 'inbox', 'feedback'].map(rowsOf),
    [6, 3, 1, 1, 3],
  )
  assert.deepEqual(await tablesWith(database, CANARY), [])

  for (const id of [sent, refused, deferred, scheduled, rendered]) {
    assert.equal((await service.request(`/emails/${id}`)).status, 404)
  }
  const others = (await (await service.request(`/emails/${shared}`)).json()) as Record<string, unknown>
  assert.deepEqual(
    [others.to, others.subject, others.html, others.content_removed],
    [['bob@example.org'], null, null, true],
  )
  assert.deepEqual(
    await database.query('select recipient_domain, tags from mail.message_content where id = $1', [shared]),
    [{ recipient_domain: 'example.org', tags: null }],
  )
  const waiting = (await (await service.request(`/emails/${waitingShared}`)).json()) as Record<
    string,
    unknown
  >
  assert.deepEqual([waiting.to, waiting.last_event], [['bob@example.org'], 'scheduled'])

  assert.deepEqual(await erase(database), [])
  // It bounced, so it was on the list; nobody can read there who it was.
  const again = await post(service, { to: [ANN] })
  await untilStatus(database, again, 'suppressed')
  await erase(database)
  assert.deepEqual(await tablesWith(database, CANARY), [])
})

test('past retention the same person is in no column of any table', async (t) => {
  const database = await createTestDatabase(t)
  const db = openTestPool(database)
  await makePartitions(database, [100])
  const ids = await insertOld(database, [
    { daysAgo: 100 },
    { daysAgo: 101 },
    { daysAgo: 101, status: 'dead' },
  ])
  await database.query(
    `update mail.message_content set message = json_build_object('to', json_build_array(json_build_object('address', $1::text)), 'html', $1::text)`,
    [ANN],
  )
  await database.query('update mail.message_prepared set html = $1', [ANN])
  await database.query('update mail.finder set term = $1', [`to:${ANN}`])
  await database.query(
    "update mail.event set recipient = $1, detail = json_build_object('reply', $1::text)",
    [ANN],
  )
  await database.query('update mail.dead_letter set reason = $1', [ANN])
  await database.query(
    `insert into mail.attachment (sha256, size, content, given_at)
     values (sha256($1::bytea), length($1), $1::bytea, now() - interval '101 days')`,
    [ANN],
  )
  await database.query(
    "insert into mail.attachment_use (sha256, day, stream) select sha256, current_date - 100, 'transactional' from mail.attachment",
  )
  await database.query(
    `insert into mail.webhook_delivery (id, endpoint_id, message_id, event_id, type, payload, state)
     select mail.webhook_id_floor(now() - interval '100 days'), gen_random_uuid(), $2, 1, 'email.sent', to_json($1::text), 'success'`,
    [ANN, ids[0]],
  )
  await database.query(
    `insert into mail.feedback (endpoint, kind, event_key, state, reason, body, received_at)
     select 'x', 'dsn', state, state, 'x', convert_to($1, 'UTF8'), now() - interval '100 days' from unnest('{applied,parked}'::text[]) state`,
    [ANN],
  )
  assert.ok((await tablesWith(database, CANARY)).length > 8)
  await retainAll(db)
  await purgeAttachments(db)
  assert.deepEqual(await tablesWith(database, CANARY), [])
})

describe('erasing one leaves others alone', () => {
  test('addresses that only look alike, and attachments that others carry, stay', async (t) => {
    const database = await createTestDatabase(t)
    const sink = await startSmtpSink(t)
    const service = await startTestService(database, { SMTP_URL: sink.url })
    const attachments = [{ filename: 'terms.txt', content: Buffer.from('Terms').toString('base64') }]
    const ids = [
      await post(service, { to: 'ann@example.net', attachments }),
      await post(service, { to: 'joann@example.net', attachments }),
      await post(service, { to: 'ann@example.net.example.com', text: 'ask joann@example.net' }),
    ]
    for (const id of ids) await untilStatus(database, id, 'sent')
    await database.query(
      `insert into mail.feedback_unmatched (provider, key, event)
       values ('', '1', '"joann@example.net"'), ('', '2', '"ann@example.net.au"'), ('', '3', '"<ann@example.net>."')`,
    )
    await erase(database, 'ann@example.net')
    assert.deepEqual(await database.query('select key from mail.feedback_unmatched order by 1'), [
      { key: '1' },
      { key: '2' },
    ])
    assert.deepEqual(await Promise.all(ids.map((id) => statusOf(database, id))), [undefined, 'sent', 'sent'])
    assert.equal((await database.query('select from mail.attachment')).length, 1)
    await erase(database, 'joann@example.net')
    assert.equal((await database.query('select from mail.attachment')).length, 0)
  })

  test('an address is found however JSON has escaped it', async (t) => {
    const database = await createTestDatabase(t)
    const spelled = [
      'ann+shop@example.net',
      'ann\\u002Bshop\\u0040example.net',
      '\\u0061nn\\u002bshop@example.n\\u0065t',
      '\\u0041NN\\u002Bshop@example.net',
    ]
    for (const [index, to] of [...spelled, 'joann\\u002Bshop@example.net'].entries()) {
      await database.query('insert into mail.outbox (message) values ($1::json)', [
        `{"from":"shop@example.com","to":"${to}","subject":"${index}"}`,
      ])
    }
    await erase(database, 'ann+shop@example.net')
    assert.deepEqual(await database.query("select message ->> 'subject' as subject from mail.outbox"), [
      { subject: '4' },
    ])
  })

  test('mail that waits at a door goes to the others, or not at all', async (t) => {
    const database = await createTestDatabase(t)
    await database.query(
      `insert into mail.outbox (message) values
         ('{"from":"shop@example.com","to":"Ann <Ann@example.net>","subject":"1"}'),
         ('{"from":"shop@example.com","to":["ann@example.net","bob@example.org"],"cc":"ann@example.net","subject":"2"}'),
         ('{"from":"shop@example.com","to":"bob@example.org","subject":"3","text":"ask ann@example.net"}'),
         ('{"from":"shop@example.com","to":"ann@example.net","subject":"\\u0000"}')`,
    )
    const erased = await erase(database, 'ann@example.net')
    assert.deepEqual(erased, [{ what: 'outbox', rows: 3, is_left: false }])
    const left = await database.query('select message from mail.outbox order by seq')
    assert.deepEqual(left, [
      { message: { from: 'shop@example.com', to: ['bob@example.org'], subject: '2' } },
      {
        message: {
          from: 'shop@example.com',
          to: 'bob@example.org',
          subject: '3',
          text: 'ask ann@example.net',
        },
      },
    ])
  })

  test('what is being sent at this moment is not sent again, and what was to several is told to be left', async (t) => {
    const database = await createTestDatabase(t)
    const held = Promise.withResolvers<undefined>()
    const isIn = Promise.withResolvers<void>()
    let inFlight = 0
    const sink = await startSmtpSink(t, {
      onMail: () => {
        inFlight += 1
        if (inFlight === 2) isIn.resolve()
        return held.promise
      },
    })
    const service = await startTestService(database, { SMTP_URL: sink.url })
    const alone = await post(service, { to: ANN })
    const shared = await post(service, { to: [ANN, 'bob@example.org'] })
    await isIn.promise
    const first = await erase(database)
    assert.ok(first.some(({ what, is_left }) => is_left && what === 'message: in use, or being sent'))
    held.resolve(undefined)
    await untilStatus(database, shared, 'sent')
    await eventually('nothing is in flight', async () => {
      const rows = await database.query(
        "select from pgboss.job where state = 'active' and name like 'dispatch.%'",
      )
      return rows.length === 0
    })
    assert.ok(!(await erase(database)).some((each) => each.is_left))
    assert.equal(await statusOf(database, alone), undefined)
    assert.deepEqual(await tablesWith(database, CANARY), [])
    assert.equal(sink.mails.length, 2)
  })

  test('a bounce that comes for an erased message suppresses nobody and changes nothing', async (t) => {
    const database = await createTestDatabase(t)
    const db = openTestPool(database)
    const [id = ''] = await insertMessages(database, [{ to: [ANN] }])
    await database.query('insert into mail.finder (term, message_id) values ($1, $2)', [`to:${ANN}`, id])
    await erase(database)
    await apply(db, [eventOf(id, 'bounced', { recipient: ANN, detail: { kind: 'hard' } })])
    assert.equal((await database.query('select from mail.suppression')).length, 0)
    assert.equal((await database.query('select from mail.message')).length, 0)
  })
})

describe('a suppression of an address that was erased', () => {
  test('is found by who knows the address, in its scope and until its end, and is lifted like any other', async (t) => {
    const database = await createTestDatabase(t)
    const service = await startTestService(database)
    await database.query("select mail.suppress($1, scope => 'marketing')", [ANN])
    await database.query("select mail.suppress($1, expires_at => now() + interval '1 hour')", [ANN])
    const ids = await database.query<{ id: string; scope: string }>(
      'select id, scope from mail.suppression order by scope',
    )
    await erase(database)
    const among = async (stream: string) => {
      const rows = await database.query<{ address: string }>(
        'select address from mail.suppressed_among($1, $2) as address',
        [[ANN, 'bob@example.org'], stream],
      )
      return rows.map(({ address }) => address)
    }
    assert.deepEqual([await among('transactional'), await among('marketing')], [[ANN], [ANN]])
    await database.query("update mail.suppression_hash set expires_at = now() where scope = '*'")
    assert.deepEqual([await among('transactional'), await among('marketing')], [[], [ANN]])

    const path = `/suppressions/${encodeURIComponent(ANN)}?scope=marketing`
    const shown = (await (await service.request(path)).json()) as Record<string, unknown>
    assert.deepEqual(
      [shown.id, shown.email, shown.source, shown.evidence],
      [ids.find(({ scope }) => scope === 'marketing')?.id, ANN, 'erasure', null],
    )
    const listed = (await (await service.request('/suppressions')).json()) as { data: unknown[] }
    assert.deepEqual(listed.data, [])
    assert.equal((await service.request(path, { method: 'DELETE' })).status, 200)
    assert.deepEqual(await among('marketing'), [])
    const [lifted] = await database.query<{ was: boolean }>('select mail.unsuppress($1) as was', [ANN])
    assert.equal(lifted?.was, true)
    assert.deepEqual(await database.query('select from mail.suppression_hash'), [])
  })

  test('is hashed as RFC 4231 has it', async (t) => {
    const database = await createTestDatabase(t)
    // RFC 4231 sections 4.2, 4.3 and 4.7: a short key, a word, and one longer than a block.
    const vectors = [
      ['0b'.repeat(20), 'Hi There', 'b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7'],
      [
        Buffer.from('Jefe').toString('hex'),
        'what do ya want for nothing?',
        '5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843',
      ],
      [
        'aa'.repeat(131),
        'Test Using Larger Than Block-Size Key - Hash Key First',
        '60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54',
      ],
    ]
    for (const [key, content, expected] of vectors) {
      const [row] = await database.query<{ mac: string }>(
        "select encode(mail.hmac_sha256(convert_to($2, 'UTF8'), decode($1, 'hex')), 'hex') as mac",
        [key, content],
      )
      assert.equal(row?.mac, expected)
    }
  })
})

test('what is no address is refused, with what would be right', async (t) => {
  const database = await createTestDatabase(t)
  const service = await startTestService(database)
  for (const [body, message] of [
    [{ address: 'Ann <ann@example.net>' }, /Invalid `address`: it has a name or brackets/],
    [{ address: 'ann' }, /Invalid `address`/],
    [{}, /`address`/],
  ] as const) {
    const response = await service.request('/erasures', { body })
    assert.equal(response.status, 422)
    assert.match(((await response.json()) as { message: string }).message, message)
  }
  await assert.rejects(erase(database, 'ann'), { code: '22023', message: /is not a plain address/ })
})
