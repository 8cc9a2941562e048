import assert from 'node:assert/strict'
import { before, describe, test } from 'node:test'
import { Client, type QueryResultRow } from 'pg'
import { createTestDatabase, type TestDatabase } from './support/database.ts'
import { eventually } from './support/eventually.ts'
import { deadLetterOf, eventTypesOf, insertMany, post, readMessage, untilStatus } from './support/messages.ts'
import { orderMail, startTestService, type TestService } from './support/service.ts'
import { type SmtpSink, startSmtpSink } from './support/smtp-sink.ts'

let database: TestDatabase
let service: TestService
let sink: SmtpSink
/** Recipients the relay refuses, and what it says. */
const refusals = new Map<string, { code: number; text: string }>()
/** Recipients whose mail the relay takes without ever saying so. */
const swallowed = new Set<string>()

before(async (t) => {
  const context = t as Parameters<typeof createTestDatabase>[0]
  sink = await startSmtpSink(context, {
    onRecipient: (address) =>
      address.startsWith('nobody') ? { code: 550, text: '5.4.4 No such route here' } : refusals.get(address),
    onMail: async ({ to }) => {
      if (to.some((address) => swallowed.has(address))) await sink.dropConnections()
      return undefined
    },
  })
  database = await createTestDatabase(context)
  service = await startTestService(database, { SMTP_URL: sink.url })
  await database.query(
    `insert into mail.stream (name, attempts) values ('once', 1);
     insert into mail.stream (name, attempts, on_unknown) values ('held', 1, 'hold');
     update mail.provider set breaker_run = 1000, breaker_volume = 1000000`,
  )
  for (const stream of ['once', 'held']) await untilKnown(stream)
})

/** Resolves when the door takes mail for a stream, and the mail it is found out with has gone out. */
async function untilKnown(stream: string): Promise<void> {
  let id = ''
  await eventually(`stream ${stream} takes mail`, async () => {
    const body = orderMail({ stream, to: 'probe@example.net' })
    const answer = await service.request('/emails', { body })
    id = ((await answer.json()) as { id: string }).id
    return answer.status === 200
  })
  await untilStatus(database, id, 'sent')
}

/** Runs statements in one transaction of a role, and undoes them unless told to keep them. */
async function as(
  role: string,
  statements: readonly string[],
  end: 'commit' | 'rollback' = 'commit',
): Promise<QueryResultRow[]> {
  const client = new Client({ connectionString: database.url })
  await client.connect()
  try {
    await client.query('begin')
    await client.query(`set local role ${role}`)
    let rows: QueryResultRow[] = []
    for (const statement of statements) rows = (await client.query(statement)).rows
    await client.query(end)
    return rows
  } finally {
    await client.end()
  }
}

async function ask(statement: string): Promise<unknown> {
  const [row] = await as('mail_operator', [`select ${statement} as answer`])
  return row?.answer
}

let templates = 0
/** Publishes a template that cannot be rendered; returns its name. */
async function brokenTemplate(): Promise<string> {
  templates += 1
  const name = `broken-${templates}`
  await publish(name, 1, '<p>{{ user_id | no_such_filter }}</p>')
  return name
}

async function publish(name: string, version: number, html: string): Promise<void> {
  await database.query(
    `with made as (
       insert into mail.template (name) select $1 where not exists (select from mail.template where name = $1) returning id
     )
     insert into mail.template_version (template_id, version, subject, html, published_at)
     select id, $2, 'Hello', $3, now()
     from (select id from made union all select id from mail.template where name = $1) t`,
    [name, version, html],
  )
}

function templated(name: string, to = 'ann@example.net'): Record<string, unknown> {
  const bodies = { subject: undefined, html: undefined, text: undefined }
  return orderMail({ to, template: { id: name }, ...bodies })
}

async function postTemplated(name: string, to?: string): Promise<string> {
  const response = await service.request('/emails', { body: templated(name, to) })
  return ((await response.json()) as { id: string }).id
}

function mailsTo(recipient: string) {
  return sink.mails.filter(({ to }) => to.includes(recipient))
}

async function lettersOf(id: string) {
  return database.query('select * from mail.dlq where message_id = $1', [id])
}

/** Inserts so many messages whose template cannot be rendered, and waits until they are dead. */
async function killMany(count: number) {
  const template = await brokenTemplate()
  const ids = await insertMany(database, count, templated(template))
  await eventually(`${count} letters`, async () => {
    const letters = await database.query('select from mail.dlq where template = $1', [template])
    return letters.length === count
  })
  return { template, ids }
}

describe('a dead letter', () => {
  test('of the intake says what could not be understood, and who sent it', async () => {
    const [row] = await database.query<{ id: string }>(
      `insert into mail.outbox (message, source) values ('{"from":"shop@example.com","to":"nowhere"}', 'shop') returning id`,
    )
    await deadLetterOf(database, row?.id ?? '')
    const [letter, ...more] = await lettersOf(row?.id ?? '')
    assert.deepEqual(more, [])
    assert.partialDeepStrictEqual(letter, {
      stage: 'intake',
      code: 'invalid_message',
      attempts: 0,
      stream: 'transactional',
      source: 'shop',
    })
    assert.match(letter?.reason, /`to`/)
  })

  test('of processing names the template and its version, and what is wrong with it', async () => {
    const template = await brokenTemplate()
    const id = await postTemplated(template)
    await deadLetterOf(database, id)
    const [letter, ...more] = await lettersOf(id)
    assert.deepEqual(more, [])
    assert.partialDeepStrictEqual(letter, {
      stage: 'processing',
      template,
      template_version: 1,
      recipient_domain: 'example.net',
    })
    assert.match(letter?.reason, /no_such_filter/)
  })

  test('names the template also when no such template is published', async () => {
    const id = await postTemplated('never-published')
    await deadLetterOf(database, id)
    const [letter] = await lettersOf(id)
    assert.partialDeepStrictEqual(letter, { code: 'template_not_found', template: 'never-published' })
  })

  test('of dispatch has the reply of the provider, the attempts, and the version that was sent', async () => {
    await publish('plain', 1, '<p>Hello</p>')
    const id = await postTemplated('plain', 'nobody@example.org')
    await deadLetterOf(database, id)
    const [letter, ...more] = await lettersOf(id)
    assert.deepEqual(more, [])
    assert.partialDeepStrictEqual(letter, {
      stage: 'dispatch',
      code: 'smtp_refused',
      attempts: 1,
      provider: 'default',
      template: 'plain',
      template_version: 1,
      recipient_domain: 'example.org',
    })
    assert.match(letter?.reason, /5\.4\.4 No such route here/)
  })
})

test('a broken template and an integration with bad addresses are one row each among 500', async () => {
  const { template } = await killMany(300)
  await database.query(
    `insert into mail.outbox (message, source)
     select json_build_object('from', 'crm@example.com', 'to', 'nobody' || n || '@host' || n % 40 || '.example', 'subject', 'Hi', 'text', 'Hi'), 'crm'
     from generate_series(1, 200) n`,
  )
  await eventually('200 refused', async () => {
    const letters = await database.query("select from mail.dlq where source = 'crm'")
    return letters.length === 200
  })
  const rows = await as('mail_reader', ['select * from mail.dlq_summary'])
  const ofTemplate = rows.filter((row) => row.template === template)
  assert.equal(ofTemplate.length, 1)
  assert.partialDeepStrictEqual(ofTemplate[0], {
    stage: 'processing',
    template_version: 1,
    messages: '300',
    recipient_domain: 'example.net',
  })
  assert.match(ofTemplate[0]?.sample_reason, /no_such_filter/)
  const ofSource = rows.filter((row) => row.source === 'crm')
  assert.equal(ofSource.length, 1)
  assert.partialDeepStrictEqual(ofSource[0], {
    stage: 'dispatch',
    code: 'smtp_refused',
    messages: '200',
    recipient_domain: null,
  })
  assert.match(
    ofSource[0]?.recipient_domains,
    /^host\d+\.example 5, host\d+\.example 5, host\d+\.example 5, 37 more$/,
  )
  const groups = rows.map((row) => Number(row.messages))
  assert.deepEqual(
    groups,
    [...groups].sort((a, b) => b - a),
    'the largest group comes first',
  )
})

describe('a retry', () => {
  test('renders with the template as it is published now, and keeps the history', async () => {
    const template = await brokenTemplate()
    const id = await postTemplated(template, 'again@example.net')
    await deadLetterOf(database, id)
    await publish(template, 2, '<p>Mended</p>')
    assert.equal(await ask(`mail.dlq_retry('${id}')`), true)
    await untilStatus(database, id, 'sent')
    assert.deepEqual(await eventTypesOf(database, id), ['accepted', 'dead', 'retried', 'queued', 'sent'])
    assert.match(mailsTo('again@example.net')[0]?.raw.toString() ?? '', /Mended/)
    assert.deepEqual(await lettersOf(id), [])
    assert.equal((await readMessage(database, id))?.template_version, 2)
    const [event] = await database.query<{ by: string }>(
      `select detail ->> 'by' as by from mail.event where message_id = $1 and type = 'retried'`,
      [id],
    )
    assert.notEqual(event?.by, 'mail_owner', 'says who asked for it, not whose rights the function has')
    assert.ok(event?.by)
  })

  test('asked for by many at the same moment, by id and by filter, sends once', async () => {
    const { template, ids } = await killMany(20)
    await publish(template, 2, '<p>Mended</p>')
    const filter = JSON.stringify({ template })
    const answers = await Promise.all([
      ...Array.from({ length: 4 }, () =>
        ask(`mail.dlq_retry('${filter}', null, 1000)`).catch((error: { code: string }) => error.code),
      ),
      ...ids.map((id) => ask(`mail.dlq_retry('${id}')`)),
    ])
    const retried = answers.reduce<number>(
      (sum, answer) => sum + (answer === 'P0002' ? 0 : Number(answer)),
      0,
    )
    assert.equal(retried, 20)
    for (const id of ids) {
      await untilStatus(database, id, 'sent')
      assert.deepEqual(await eventTypesOf(database, id), ['accepted', 'dead', 'retried', 'queued', 'sent'])
      assert.equal(await ask(`mail.dlq_retry('${id}')`), false, 'what was sent is not dead any more')
    }
    assert.equal(
      sink.mails.filter((mail) => mail.raw.includes('Mended') && ids.some((id) => mail.raw.includes(id)))
        .length,
      20,
    )
  })

  test('of a letter that somebody holds waits for what becomes of it', async () => {
    const { template, ids } = await killMany(1)
    const [id = ''] = ids
    await publish(template, 2, '<p>Mended</p>')
    const holder = new Client({ connectionString: database.url })
    await holder.connect()
    try {
      await holder.query('begin')
      await holder.query(`select mail.dlq_discard('${id}')`)
      const answer = ask(`mail.dlq_retry('${id}')`)
      await eventually('the retry waits', async () => {
        const waiting = await database.query(
          `select from pg_stat_activity where wait_event_type = 'Lock' and query like '%dlq_retry(%${id}%'`,
        )
        return waiting.length === 1
      })
      await holder.query('rollback')
      assert.equal(await answer, true)
    } finally {
      await holder.end()
    }
    await untilStatus(database, id, 'sent')
  })

  test('by filter takes the oldest first, as many as asked for, at one pace over all streams', async () => {
    const template = await brokenTemplate()
    const [urgent, plain] = [
      await insertMany(database, 3, { ...templated(template), stream: 'alerts' }),
      await insertMany(database, 4, templated(template)),
    ]
    await eventually('7 letters', async () => {
      const letters = await database.query('select from mail.dlq where template = $1', [template])
      return letters.length === 7
    })
    const ids = [...urgent, ...plain]
    for (const [age, id] of ids.toReversed().entries()) {
      await database.query(
        `update mail.dead_letter set died_at = now() - interval '1 day' + $2 * interval '1 minute' where message_id = $1`,
        [id, age],
      )
    }
    const client = new Client({ connectionString: database.url })
    await client.connect()
    try {
      await client.query('begin')
      const [answer] = (
        await client.query('select mail.dlq_retry($1::jsonb, 6, 4) as count', [JSON.stringify({ template })])
      ).rows
      assert.equal(answer?.count, 6)
      const { rows } = await client.query(
        `select data -> 'ids' ->> 0 as id, extract(epoch from start_after - now())::float8 as after
         from pgboss.job where name like 'process.%' and (data -> 'ids' ->> 0)::uuid = any ($1) order by start_after`,
        [ids],
      )
      assert.deepEqual(
        rows,
        ids
          .toReversed()
          .slice(0, 6)
          .map((id, place) => ({ id, after: place / 4 })),
      )
    } finally {
      await client.query('rollback')
      await client.end()
    }
  })

  test('that fails again is a dead letter once, with both failures in its history', async () => {
    const id = await post(service, { to: 'nobody-at-all@example.net' })
    await deadLetterOf(database, id)
    const first = await lettersOf(id)
    assert.equal(await ask(`mail.dlq_retry('${id}')`), true)
    await eventually('dead again', async () => {
      const [letter] = await lettersOf(id)
      return letter !== undefined && letter.died_at > first[0]?.died_at
    })
    assert.equal((await lettersOf(id)).length, 1)
    assert.deepEqual(await eventTypesOf(database, id), [
      'accepted',
      'queued',
      'recipient_refused',
      'dead',
      'retried',
      'queued',
      'recipient_refused',
      'dead',
    ])
  })

  test('of a message for a stream that did not exist goes through the door again', async () => {
    const [row] = await database.query<{ id: string }>(
      `insert into mail.outbox (message, stream, source, priority) values ($1, 'digests', 'shop', 2) returning id`,
      [JSON.stringify(orderMail({ to: 'digest@example.net' }))],
    )
    const id = row?.id ?? ''
    assert.equal((await deadLetterOf(database, id)).code, 'unknown_stream')
    await database.query("insert into mail.stream (name) values ('digests')")
    await untilKnown('digests')
    assert.equal(await ask(`mail.dlq_retry('${id}')`), true)
    await untilStatus(database, id, 'sent')
    assert.equal(mailsTo('digest@example.net').length, 1)
    assert.deepEqual(await eventTypesOf(database, id), ['dead', 'retried', 'accepted', 'queued', 'sent'])
    const [message] = await database.query(
      'select source, priority, stream from mail.message where id = $1',
      [id],
    )
    assert.deepEqual(message, { source: 'shop', priority: 2, stream: 'digests' })
  })

  test('of a message partly sent goes to the recipients that are left', async () => {
    refusals.set('later@example.net', { code: 450, text: '4.2.1 Mailbox busy' })
    const id = await post(service, { to: ['first@example.net', 'later@example.net'], stream: 'once' })
    await deadLetterOf(database, id)
    assert.equal(mailsTo('first@example.net').length, 1)
    refusals.delete('later@example.net')
    assert.equal(await ask(`mail.dlq_retry('${id}')`), true)
    await untilStatus(database, id, 'sent')
    assert.deepEqual(
      sink.mails.filter((mail) => mail.raw.includes(id)).map(({ to }) => to),
      [['first@example.net'], ['later@example.net']],
    )
  })

  test('goes by the suppression list as it is now', async () => {
    await ask("mail.suppress('quiet@example.net')")
    const id = await post(service, {
      to: 'nobody-quiet@example.net',
      cc: 'quiet@example.net',
      stream: 'once',
    })
    await deadLetterOf(database, id)
    await ask("mail.unsuppress('quiet@example.net')")
    assert.equal(await ask(`mail.dlq_retry('${id}')`), true)
    await eventually(
      'mail for the one that was left out',
      async () => mailsTo('quiet@example.net').length === 1,
    )
  })

  test('of a message whose stream is gone is refused, and the letter stays', async () => {
    await database.query("insert into mail.stream (name) values ('gone')")
    await untilKnown('gone')
    const id = await post(service, { to: 'nobody@example.net', stream: 'gone' })
    await deadLetterOf(database, id)
    await database.query("delete from mail.stream where name = 'gone'")
    await assert.rejects(ask(`mail.dlq_retry('${id}')`), {
      code: '55000',
      message: /stream gone does not exist/,
    })
    assert.equal((await lettersOf(id)).length, 1)
  })
})

describe('a discard', () => {
  test('takes a dead letter away for good, once', async () => {
    const id = await post(service, { to: 'nobody@example.net' })
    await deadLetterOf(database, id)
    assert.equal(await ask(`mail.dlq_discard('${id}')`), true)
    assert.equal(await ask(`mail.dlq_discard('${id}')`), false)
    assert.equal(await ask(`mail.dlq_retry('${id}')`), false)
    assert.equal((await readMessage(database, id))?.status, 'canceled')
    assert.deepEqual(await eventTypesOf(database, id), [
      'accepted',
      'queued',
      'recipient_refused',
      'dead',
      'discarded',
    ])
  })

  test('by filter takes no more than asked for', async () => {
    const { template } = await killMany(5)
    assert.equal(await ask(`mail.dlq_discard('{"template":"${template}"}', 2)`), 2)
    assert.equal(await ask(`mail.dlq_discard('{"template":"${template}"}', null)`), 3)
    const left = await database.query('select from mail.dead_letter where template = $1', [template])
    assert.deepEqual(left, [])
  })
})

test('every key of a filter chooses by its column, null those that have none', async () => {
  const { template } = await killMany(2)
  const count = async (filter: object) => {
    const [row] = await as(
      'mail_operator',
      [`select mail.dlq_discard('${JSON.stringify({ template, ...filter })}', null) as count`],
      'rollback',
    ).catch((error: { code: string }) => {
      assert.equal(error.code, 'P0002')
      return [{ count: 0 }]
    })
    return row?.count
  }
  for (const filter of [
    { stage: 'processing' },
    { template_version: 1 },
    { template_version: '1' },
    { stream: 'transactional' },
    { recipient_domain: 'example.net' },
    { provider: null },
    { since: '2020-01-01' },
    { until: 'tomorrow' },
  ]) {
    assert.equal(await count(filter), 2, JSON.stringify(filter))
  }
  for (const filter of [
    { stage: 'dispatch' },
    { code: 'other' },
    { template_version: 2 },
    { stream: 'alerts' },
    { provider: 'default' },
    { source: null },
    { since: 'tomorrow' },
    { until: '2020-01-01' },
  ]) {
    assert.equal(await count(filter), 0, JSON.stringify(filter))
  }
})

test('a filter that is not understood is refused, and nothing is done', async () => {
  await killMany(1)
  const before = await database.query('select message_id from mail.dead_letter order by 1')
  for (const [args, code, message] of [
    [`'{"colour":"red"}', 10`, '22023', /cannot be filtered by "colour"/],
    [`'{}', null`, '22023', /every dead letter/],
    [`'[]', 10`, '22023', /must be a JSON object/],
    [`'"x"', 10`, '22023', /must be a JSON object/],
    [`null::jsonb, 10`, '22023', /must be a JSON object/],
    [`'{"code":["a"]}', 10`, '22023', /"code" must be one value/],
    [`'{"code":true}', 10`, '22023', /"code" must be one value/],
    [`'{"since":null}', null`, '22023', /"since" must be one value/],
    [`'{"since":"one of these days"}', 10`, '22007', /one of these days/],
    [`'{"until":"2026-13-45"}', 10`, '22008', /2026-13-45/],
    [`'{"code":"no_such_code"}', 10`, 'P0002', /no dead letter matches/],
    [`'{"stage":"processing"}', 0`, '22023', /max must be at least 1/],
    [`'{"stage":"processing"}', -1`, '22023', /max must be at least 1/],
  ] as const) {
    for (const verb of ['retry', 'discard']) {
      await assert.rejects(ask(`mail.dlq_${verb}(${args})`), { code, message }, `${verb} ${args}`)
    }
  }
  for (const pace of ['0', '-1', `'NaN'`, `'Infinity'`, '1e-300', 'null']) {
    await assert.rejects(ask(`mail.dlq_retry('{"stage":"processing"}', 1, ${pace})`), { code: '22023' }, pace)
  }
  assert.deepEqual(await database.query('select message_id from mail.dead_letter order by 1'), before)
})

describe('a message whose outcome nobody knows', () => {
  async function unknownTo(recipient: string): Promise<string> {
    swallowed.add(recipient)
    const id = await post(service, { to: recipient, stream: 'held' })
    await untilStatus(database, id, 'unknown')
    swallowed.delete(recipient)
    return id
  }

  test('is settled as sent by a person, once', async () => {
    const id = await unknownTo('maybe@example.net')
    assert.equal(await ask(`mail.settle_unknown('${id}', 'sent')`), true)
    assert.equal(await ask(`mail.settle_unknown('${id}', 'retry')`), false)
    const [message] = await database.query<{ status: string; sent_at: Date | null }>(
      'select status, sent_at from mail.message where id = $1',
      [id],
    )
    assert.equal(message?.status, 'sent')
    assert.ok(message.sent_at instanceof Date)
    assert.deepEqual(await eventTypesOf(database, id), ['accepted', 'queued', 'unknown', 'sent'])
  })

  test('is sent again when a person says so, once', async () => {
    const id = await unknownTo('perhaps@example.net')
    const copies = () => sink.mails.filter((mail) => mail.raw.includes(id)).length
    const before = copies()
    const answers = await Promise.all([1, 2, 3].map(() => ask(`mail.settle_unknown('${id}', 'retry')`)))
    assert.deepEqual(answers.sort(), [false, false, true])
    await untilStatus(database, id, 'sent')
    assert.equal(copies(), before + 1)
  })

  test('is settled as nothing else', async () => {
    const id = await unknownTo('hardly@example.net')
    for (const verdict of [`'lost'`, 'null']) {
      await assert.rejects(ask(`mail.settle_unknown('${id}', ${verdict})`), { code: '22023' })
    }
    assert.equal((await readMessage(database, id))?.status, 'unknown')
  })
})
