import assert from 'node:assert/strict'
import { test } from 'node:test'
import PostalMime from 'postal-mime'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { deadLetterOf, eventTypesOf, post, readMessage, untilAll, untilStatus } from '../support/messages.ts'
import { startAbsentRelay } from '../support/relay.ts'
import { spawnService, startTestService, type TestService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'
import { headerOf, sluiceIdOf } from '../support/sunk-mail.ts'

/** Parses, and never comes to an end by itself. */
const ENDLESS = '{% for i in (1..1000000000) %}{% for j in (1..1000000000) %}{{ j }}{% endfor %}{% endfor %}'

/** A message whose content is a template's. */
function byTemplate(id: string, more: { variables?: object; version?: number; subject?: string } = {}) {
  const { variables = {}, version, subject } = more
  return { subject, html: undefined, text: undefined, template: { id, version, variables } }
}

async function save(service: Pick<TestService, 'request'>, draft: object): Promise<void> {
  const response = await service.request('/templates', { body: draft })
  assert.equal(response.status, 200, await response.clone().text())
}

async function publish(service: Pick<TestService, 'request'>, draft: { name: string }): Promise<void> {
  await save(service, draft)
  const response = await service.request(`/templates/${draft.name}/publish`, { body: {} })
  assert.equal(response.status, 200, await response.clone().text())
}

/** The next version of a template that is published. */
async function publishNext(
  service: Pick<TestService, 'request'>,
  { name, ...changes }: { name: string; subject: string; text: string },
): Promise<void> {
  const changed = await service.request(`/templates/${name}`, { body: changes, method: 'PATCH' })
  assert.equal(changed.status, 200, await changed.clone().text())
  const response = await service.request(`/templates/${name}/publish`, { body: {} })
  assert.equal(response.status, 200, await response.clone().text())
}

function untilPinned(database: TestDatabase, id: string): Promise<number> {
  return eventually(
    `message ${id} has its version`,
    async () => (await readMessage(database, id))?.template_version,
  )
}

test('a template is rendered with its data: HTML escaped, subject and text as they are', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  const service = await startTestService(database, { SMTP_URL: sink.url })
  await publish(service, {
    name: 'receipt',
    subject: 'For {{ who }}',
    html: '<p>{{ who }}</p>',
    text: '{{ who }}',
  } as { name: string })
  await post(service, byTemplate('receipt', { variables: { who: 'Tom & <b>Jerry</b>' } }))
  const [mail] = await sink.waitForMails(1)
  const parsed = await PostalMime.parse(mail?.raw ?? '')
  assert.equal(parsed.subject, 'For Tom & <b>Jerry</b>')
  assert.match(parsed.html ?? '', /<p>Tom &amp; &lt;b&gt;Jerry&lt;\/b&gt;<\/p>/)
  assert.equal(parsed.text?.trim(), 'Tom & <b>Jerry</b>')
})

test('a message keeps the template version it was processed with, and may ask for an older one', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  const relay = await startAbsentRelay(t, sink)
  const service = await startTestService(database, { SMTP_URL: relay.url })
  await publish(service, { name: 'news', subject: 'one', text: 'first' } as { name: string })
  const early = await post(service, byTemplate('news'))
  await untilPinned(database, early)
  await publishNext(service, { name: 'news', subject: 'two', text: 'second' })
  const late = await post(service, byTemplate('news'))
  const pinned = await post(service, byTemplate('news', { version: 1 }))
  await untilPinned(database, late)
  await untilPinned(database, pinned)
  await relay.appear()
  const mails = await sink.waitForMails(3)
  const subjects = new Map(mails.map((mail) => [sluiceIdOf(mail), headerOf(mail, 'Subject')]))
  assert.deepEqual(
    [early, late, pinned].map((id) => subjects.get(id)),
    ['one', 'two', 'one'],
  )
  const rows = await Promise.all([early, late, pinned].map((id) => readMessage(database, id)))
  assert.deepEqual(
    rows.map((row) => [row?.template, row?.template_version]),
    [
      ['news', 1],
      ['news', 2],
      ['news', 1],
    ],
  )
})

test('what a template cannot make a mail of is a dead letter that says why, and of which version', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  const service = await startTestService(database, { SMTP_URL: sink.url })
  await save(service, { name: 'draft', subject: 'x', text: 'x' })
  await publish(service, { name: 'bare', text: 'no subject' } as { name: string })
  await publish(service, { name: 'endless', subject: 'x', text: ENDLESS } as { name: string })
  await publish(service, { name: 'broken', subject: '{{ line }}', text: 'x' } as { name: string })

  const expected = [
    { of: byTemplate('nowhere'), code: 'template_not_found', template: 'nowhere', version: null },
    { of: byTemplate('draft'), code: 'template_not_found', template: 'draft', version: null },
    { of: byTemplate('bare', { version: 7 }), code: 'template_not_found', template: 'bare', version: null },
    { of: byTemplate('bare'), code: 'no_subject', template: 'bare', version: 1 },
    { of: byTemplate('endless'), code: /^template_/, template: 'endless', version: 1 },
    {
      of: byTemplate('broken', { variables: { line: 'a\r\nBcc: eve@example.org' } }),
      code: 'output_invalid',
      template: 'broken',
      version: 1,
    },
  ]
  for (const { of, code, template, version } of expected) {
    const id = await post(service, of)
    const letter = await deadLetterOf(database, id)
    assert.equal(letter.stage, 'processing')
    assert.match(letter.code, typeof code === 'string' ? new RegExp(`^${code}$`) : code)
    assert.equal(letter.template, template)
    assert.equal(letter.template_version, version)
    assert.ok(letter.reason.length > 10, letter.reason)
    const row = await readMessage(database, id)
    assert.deepEqual([row?.status, row?.last_error], ['dead', letter.code])
    // What the sender asked for stays on the message even when there is no such template.
    assert.equal(row?.template, of.template.id)
  }
  await post(service, byTemplate('bare', { subject: 'brought along' }))
  assert.equal((await sink.waitForMails(1)).length, 1)
})

test('what is more urgent than its stream passes hundreds that are being processed before it', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  const service = await startTestService(database, { SMTP_URL: sink.url })
  const long = '{% for i in (1..3000) %}{% assign a = i | times: 2 %}{% endfor %}Thanks'
  await publish(service, { name: 'order', subject: 'Order', text: long } as { name: string })
  const order = {
    from: 'Shop <shop@example.com>',
    to: 'ann@example.net',
    template: { id: 'order', variables: {} },
  }
  await database.query('insert into mail.outbox (message) select $1 from generate_series(1, 400)', [
    JSON.stringify(order),
  ])
  const countQueued = async () => {
    const [row] = await database.query<{ queued: string }>(
      "select count(*) as queued from mail.message where template = 'order' and queued_at is not null",
    )
    return Number(row?.queued)
  }
  await eventually('a round of orders was claimed', async () => {
    const [row] = await database.query<{ claimed: boolean }>(
      'select exists (select from mail.claim) as claimed',
    )
    return row?.claimed || undefined
  })
  const reset = await post(service, { priority: 0, subject: 'Reset' })
  await untilStatus(database, reset, 'sent')
  assert.equal(await countQueued(), 0)
})

test('suppressed recipients are left out, and a message with nobody left to send to is not sent', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  const service = await startTestService(database, { SMTP_URL: sink.url })
  await database.query(
    "select mail.suppress(a) from unnest('{to@example.net,cc@example.net,bcc@example.net}'::text[]) a",
  )
  await database.query("select mail.suppress('news@example.net', 'asked', 'marketing')")
  await database.query(
    "insert into mail.suppression (address, reason, expires_at) values ('over@example.net', 'old', now() - interval '1 s')",
  )
  const id = await post(service, {
    to: ['TO@example.net', 'news@example.net', 'over@example.net'],
    cc: ['Cc@Example.net', 'kept@example.net', 'to@example.net'],
    bcc: ['bcc@example.net', 'hidden@example.net'],
  })
  const nobody = await post(service, { to: ['to@example.net'], cc: ['kept@example.net'] })
  const unwanted = await post(service, { to: ['news@example.net'], stream: 'marketing' })
  await untilStatus(database, nobody, 'suppressed')
  await untilStatus(database, unwanted, 'suppressed')
  await untilStatus(database, id, 'sent')
  assert.equal(sink.mails.length, 1)
  const [mail] = sink.mails
  assert.deepEqual(mail?.to.toSorted(), [
    'hidden@example.net',
    'kept@example.net',
    'news@example.net',
    'over@example.net',
  ])
  assert.doesNotMatch(mail?.raw.toString().toLowerCase() ?? '', /[ ,<](to|cc|bcc|hidden)@example\.net/)
  const events = await database.query<{ recipient: string }>(
    "select recipient from mail.event where message_id = $1 and type = 'suppressed' order by recipient",
    [id],
  )
  assert.deepEqual(
    events.map(({ recipient }) => recipient),
    ['bcc@example.net', 'cc@example.net', 'to@example.net'],
  )
})

test('while suppressions cannot be read nothing goes out, and afterwards everything does', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  const service = await spawnService(t, database.url, { SMTP_URL: sink.url })
  await database.query('alter table mail.suppression rename to away')
  const id = await post(service)
  const failed = await service.logged('loop failed, will try again')
  assert.equal(failed.loop, 'process.transactional')
  assert.equal((await readMessage(database, id))?.status, 'accepted')
  assert.equal(sink.mails.length, 0)
  await database.query('alter table mail.away rename to suppression')
  await sink.waitForMails(1)
  await untilStatus(database, id, 'sent')
})

test('a hostile template among good ones harms only its own messages', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  const service = await startTestService(database, { SMTP_URL: sink.url })
  await publish(service, { name: 'good', subject: 'Hello {{ n }}', text: 'Hi {{ n }}' } as { name: string })
  await publish(service, { name: 'evil', subject: 'x', text: ENDLESS } as { name: string })
  await database.query(
    `insert into mail.outbox (message)
     select json_build_object('from', 'shop@example.com', 'to', 'user' || n || '@example.net', 'template',
       json_build_object('id', case when n % 20 = 0 then 'evil' else 'good' end, 'variables', json_build_object('n', n)))
     from generate_series(1, 100) n`,
  )
  const mails = await sink.waitForMails(95)
  const subjects = mails.map((mail) => headerOf(mail, 'Subject')).toSorted()
  const good = Array.from({ length: 100 }, (_, index) => index + 1).filter((n) => n % 20 !== 0)
  assert.deepEqual(subjects, good.map((n) => `Hello ${n}`).toSorted())
  const dead = await eventually('the five others are dead', async () => {
    const rows = await database.query<{ code: string; template: string }>(
      'select code, template from mail.dead_letter',
    )
    return rows.length === 5 && rows
  })
  for (const { code, template } of dead)
    assert.deepEqual([code.split('_')[0], template], ['template', 'evil'])
})

test('a message whose stream routes to no provider is a dead letter', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  const service = await startTestService(database, { SMTP_URL: sink.url })
  // What the trigger on routes refuses: a provider that went away under a route.
  await database.query('alter table mail.stream disable trigger route_is_complete')
  await database.query("insert into mail.stream (name, route) values ('lost', '{nowhere}')")
  const id = await eventually('the stream is known', async () => {
    const response = await service.request('/emails', {
      body: { from: 'shop@example.com', to: 'ann@example.net', subject: 'x', text: 'x', stream: 'lost' },
    })
    return response.status === 200 && ((await response.json()) as { id: string }).id
  })
  const letter = await deadLetterOf(database, id)
  assert.deepEqual([letter.stage, letter.code], ['processing', 'no_provider'])
  assert.match(letter.reason, /nowhere/)
})

/** What a fetch meets after workers died with these jobs so many times. */
async function comeBack({ query }: TestDatabase, deaths: number, where = 'true'): Promise<void> {
  await query(
    `update pgboss.job set state = 'retry', started_on = now(), retry_count = $1::integer - 1
     where name = 'process.transactional' and ${where}`,
    [deaths],
  )
}

async function acceptOnly(database: TestDatabase, smtpUrl: string, count: number): Promise<string[]> {
  const api = await startTestService(database, { SMTP_URL: smtpUrl, SLUICE_ROLES: 'api' })
  const ids: string[] = []
  for (let n = 0; n < count; n += 1) ids.push(await post(api))
  await api.stop()
  return ids
}

test('jobs that come back from a dead worker are split into messages that are processed alone', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  const ids = await acceptOnly(database, sink.url, 6)
  const [first] = await database.query<{ id: string }>(
    "select id from pgboss.job where name = 'process.transactional' limit 1",
  )
  // One batch of four and two of one message each: none may suffer for the company it is in.
  await database.query("delete from pgboss.job where name = 'process.transactional' and id <> $1", [
    first?.id,
  ])
  const jobs = [ids.slice(0, 4), ids.slice(4, 5), ids.slice(5)]
  for (const batch of jobs) {
    await database.query(
      `insert into pgboss.job (id, name, data, policy, retry_limit, priority)
       select gen_random_uuid(), name, $2::jsonb, policy, retry_limit, 4 from pgboss.job where id = $1`,
      [first?.id, JSON.stringify({ ids: batch })],
    )
  }
  await database.query("delete from pgboss.job where name = 'process.transactional' and id = $1", [first?.id])
  await comeBack(database, 5)
  const worker = await spawnService(t, database.url, { SMTP_URL: sink.url, SLUICE_ROLES: 'worker' })
  const split = await worker.logged('batch that was given back split into single messages')
  assert.equal(split.jobs, 3)
  const mails = await sink.waitForMails(6)
  assert.deepEqual(mails.map(sluiceIdOf).toSorted(), ids.toSorted())
  await untilAll(database, 6, 'sent')
})

test('a message that was alone when its worker died is tried until the third time, then it is a dead letter', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  const [twice = '', thrice = ''] = await acceptOnly(database, sink.url, 2)
  const holds = (id: string) => `data->'ids'->>0 = '${id}'`
  await database.query("update pgboss.job set priority = -1 where name = 'process.transactional'")
  await comeBack(database, 2, holds(twice))
  await comeBack(database, 3, holds(thrice))
  await startTestService(database, { SMTP_URL: sink.url, SLUICE_ROLES: 'worker' })
  const letter = await deadLetterOf(database, thrice)
  assert.deepEqual([letter.stage, letter.code], ['processing', 'worker_died'])
  assert.match(letter.reason, /3 times/)
  await untilStatus(database, twice, 'sent')
  assert.deepEqual(sink.mails.map(sluiceIdOf), [twice])
  assert.deepEqual(await eventTypesOf(database, thrice), ['accepted', 'dead'])
})
