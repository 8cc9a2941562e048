import assert from 'node:assert/strict'
import { before, describe, test } from 'node:test'
import { Client } from 'pg'
import { createTestDatabase, type TestDatabase } from './support/database.ts'
import { eventually } from './support/eventually.ts'
import { deadLetterOf, insertMany, post, untilStatus } from './support/messages.ts'
import { orderMail, startTestService, type TestService } from './support/service.ts'
import { type SmtpSink, startSmtpSink } from './support/smtp-sink.ts'

let database: TestDatabase
let service: TestService
let sink: SmtpSink
/** Set while the relay has a mail to `slow…` in hand: lets it answer. */
const inHand: { letGo?: () => void } = {}

const WHEN = String.raw`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\S*`

before(async (t) => {
  const context = t as Parameters<typeof createTestDatabase>[0]
  sink = await startSmtpSink(context, {
    onRecipient: (address) =>
      address.startsWith('busy') ? { code: 450, text: '4.2.1 Mailbox busy' } : undefined,
    onMail: async ({ to }) => {
      if (to.some((address) => address.startsWith('slow'))) {
        await new Promise<void>((resolve) => {
          inHand.letGo = resolve
        })
      }
      if (to.some((address) => address.startsWith('lost'))) await sink.dropConnections()
      return undefined
    },
  })
  database = await createTestDatabase(context)
  service = await startTestService(database, { SMTP_URL: sink.url, OTHER_SMTP_URL: sink.url })
  await database.query(
    `update mail.provider set breaker_run = 1000, breaker_volume = 1000000;
     update mail.stream set on_unknown = 'hold' where name = 'marketing'`,
  )
})

function release(): void {
  inHand.letGo?.()
  delete inHand.letGo
}

/** What an operator reads. */
async function why(id: string): Promise<string> {
  const client = new Client({ connectionString: database.url })
  await client.connect()
  try {
    await client.query('set role mail_operator')
    const { rows } = await client.query<{ why: string }>('select mail.why($1) as why', [id])
    return rows[0]?.why ?? ''
  } finally {
    await client.end()
  }
}

/** What an operator would read after these statements, which are undone: no worker acts on them. */
async function whyAfter(id: string, statements: string): Promise<string> {
  const client = new Client({ connectionString: database.url })
  await client.connect()
  try {
    await client.query(`begin; ${statements}`)
    const { rows } = await client.query<{ why: string }>('select mail.why($1) as why', [id])
    return rows[0]?.why ?? ''
  } finally {
    await client.end()
  }
}

type Lane = { readonly providers?: number; readonly priority?: number; readonly setUp?: string }

/**
 * A stream and, on its route, providers of its own (`<name>-1` …), set up in one transaction so that the
 * workers never see them otherwise.
 */
async function createLane(
  name: string,
  { providers: count = 1, priority = 5, setUp = '' }: Lane,
): Promise<void> {
  const providers = Array.from({ length: count }, (_, index) => `${name}-${index + 1}`)
  const rows = providers.map((provider) => `('${provider}', 'smtp', 'OTHER_SMTP_URL')`)
  await database.query(
    `insert into mail.provider (name, transport, credentials_env) values ${rows.join(', ')};
     insert into mail.stream (name, route, priority, slots) values ('${name}', '{${providers.join(',')}}', ${priority}, 1);
     ${setUp}`,
  )
  await eventually('the workers know them', async () => {
    const names = [`process.${name}`, ...providers.map((provider) => `dispatch.${provider}.${name}`)]
    const queues = await database.query('select from pgboss.queue where name = any ($1)', [names])
    return queues.length === names.length
  })
}

/** Again until the stream is known at the door, which is a moment after its queues are there. */
async function postTo(stream: string, changes: Readonly<Record<string, unknown>> = {}): Promise<string> {
  return eventually(`stream ${stream} takes mail`, async () => {
    const response = await service.request('/emails', { body: orderMail({ stream, ...changes }) })
    return response.status === 200 && ((await response.json()) as { id: string }).id
  })
}

async function postQueued(stream: string, changes: Readonly<Record<string, unknown>> = {}): Promise<string> {
  const id = await postTo(stream, changes)
  await untilStatus(database, id, 'queued')
  return id
}

describe('a queued message waits', () => {
  test('because its stream was paused, and by whom', async () => {
    await createLane('halted', { setUp: "select mail.pause('halted')" })
    const id = await postQueued('halted')
    assert.match(
      await why(id),
      new RegExp(`^Waiting because stream halted was paused by \\w+ at ${WHEN}\\.$`),
    )
    await database.query("select mail.resume('halted')")
    await untilStatus(database, id, 'sent')
    assert.match(await why(id), new RegExp(`^Not waiting: provider halted-1 accepted it at ${WHEN}\\.$`))
  })

  test('because its provider is paused, and says which one takes it over', async () => {
    await createLane('lent', { providers: 2, setUp: "select mail.pause('lent'), mail.pause('lent-1')" })
    const id = await postQueued('lent')
    await database.query("update mail.message set provider = 'lent-1' where id = $1", [id])
    assert.match(
      await whyAfter(id, "select mail.resume('lent')"),
      /^Waiting for provider lent-1: paused by \w+; lent-2 is next on the route and takes it over\.$/,
    )
    assert.match(
      await whyAfter(id, "select mail.resume('lent'), mail.pause('lent-2')"),
      /^Waiting for provider lent-1: paused by \w+\.$/,
    )
  })

  test('because the breaker of its provider is open, and until when', async () => {
    await createLane('broken', {
      setUp: `insert into mail.provider_state (provider) values ('broken-1');
        update mail.provider set breaker_cooldown_s = 120 where name = 'broken-1';
        select mail.open_breaker('broken-1', '5 faults in a row, the latest: connect_failed')`,
    })
    assert.match(
      await why(await postQueued('broken')),
      new RegExp(
        `^Waiting for provider broken-1 until ${WHEN}: its breaker is open: 5 faults in a row, the latest: connect_failed\\.$`,
      ),
    )
  })

  test('because the breaker is half-open and the probes are under way', async () => {
    await createLane('trying', {
      setUp: `insert into mail.provider_state (provider, breaker, breaker_until, probes_out)
        values ('trying-1', 'half_open', now() + interval '1 minute', 3)`,
    })
    assert.match(
      await why(await postQueued('trying')),
      /^Waiting for provider trying-1: its breaker is half-open, and a few probes find out whether it is back\.$/,
    )
  })

  test('because the provider asked to wait, in its own words', async () => {
    await createLane('asked', {
      setUp: "select mail.block_provider('asked-1', 60000, 'throttled 421 4.7.0 Too many messages')",
    })
    assert.match(
      await why(await postQueued('asked')),
      new RegExp(
        `^Waiting for provider asked-1 until ${WHEN}: the provider asked to wait: throttled 421 4\\.7\\.0 Too many messages\\.$`,
      ),
    )
  })

  test('because what remains is left to urgent streams, whatever its own priority', async () => {
    await createLane('lowly', { priority: 7, setUp: "select mail.note_remaining('lowly-1', 12, 60000)" })
    assert.match(
      await why(await postQueued('lowly', { priority: 0 })),
      new RegExp(
        `^Waiting for provider lowly-1 until ${WHEN}: it says that only 12 requests remain, which are left to urgent streams\\.$`,
      ),
    )
  })

  test('for tokens, and says until about when', async () => {
    await createLane('paced', {
      setUp: `insert into mail.bucket (provider, name, quota, window_s, utilization, tokens, refilled_at)
        values ('paced-1', 'hourly', 18, 3600, 1, 0, now())`,
    })
    assert.match(
      await why(await postQueued('paced')),
      new RegExp(
        `^Waiting for tokens of provider paced-1: bucket hourly gives 0\\.005 a second and about 0 messages of stream paced are ahead, so no tokens until about ${WHEN}\\.$`,
      ),
    )
  })

  test('behind others of its stream', async () => {
    await createLane('narrow', {})
    await postTo('narrow', { to: 'slow@example.net' })
    await eventually('the slot is taken', async () => inHand.letGo)
    const before = await postQueued('narrow')
    const id = await postQueued('narrow')
    assert.match(
      await why(id),
      new RegExp(
        `^Ready to go to provider narrow-1 since ${WHEN}, behind about 2 messages of stream narrow\\.$`,
      ),
    )
    release()
    for (const each of [before, id]) await untilStatus(database, each, 'sent')
  })
})

test('a message being sent says by which worker', async () => {
  const id = await post(service, { to: 'slow@example.net' })
  await eventually('the relay has it in hand', async () => inHand.letGo)
  assert.match(
    await why(id),
    new RegExp(`^Being sent to provider default by worker \\d+ \\(.+\\) since ${WHEN}, attempt 1\\.$`),
  )
  release()
  await untilStatus(database, id, 'sent')
})

test('a deferred message says until when and because of what, then what it waits for', async () => {
  await database.query('insert into mail.stream (name, backoff_base_s) values ($1, 600)', ['patient'])
  await eventually('the workers know it', async () => {
    const queues = await database.query("select from pgboss.queue where name = 'process.patient'")
    return queues.length === 1
  })
  const id = await postTo('patient', { to: 'busy@example.net' })
  await untilStatus(database, id, 'deferred')
  assert.match(
    await why(id),
    new RegExp(
      `^Deferred until ${WHEN} because of \\w+ \\(.*4\\.2\\.1 Mailbox busy\\); attempts counted: 1 of 3\\. It is tried again by itself\\.$`,
    ),
  )
  await database.query("select mail.pause('patient')")
  await database.query('update mail.message set next_attempt_at = now() where id = $1', [id])
  assert.match(await why(id), /^Waiting because stream patient was paused by/)
})

test('a message whose outcome is unknown says who holds it and how to settle it', async () => {
  const id = await post(service, { to: 'lost@example.net', stream: 'marketing' })
  await untilStatus(database, id, 'unknown')
  assert.match(
    await why(id),
    /^Nobody can know whether provider default took it: \w+\. Stream marketing holds such messages: settle it with mail\.settle_unknown/,
  )
})

test('a dead letter says where and why it failed', async () => {
  const [row] = await database.query<{ id: string }>(
    `insert into mail.outbox (message) values ('{"from":"shop@example.com","to":"nowhere"}') returning id`,
  )
  await deadLetterOf(database, row?.id ?? '')
  assert.match(
    await why(row?.id ?? ''),
    new RegExp(`^Dead since ${WHEN}: failed in intake with invalid_message: .*\`to\``),
  )
})

test('a suppressed and a canceled message say so', async () => {
  await database.query("select mail.suppress('gone@example.net')")
  const id = await post(service, { to: 'gone@example.net' })
  await untilStatus(database, id, 'suppressed')
  assert.equal(await why(id), 'Not sent: every recipient is on the suppression list.')
  await database.query("update mail.message set status = 'canceled' where id = $1", [id])
  assert.equal(await why(id), 'Canceled before it was sent.')
})

test('an id that is nobody’s says so', async () => {
  assert.match(await why('00000000-0000-7000-8000-000000000000'), /^No message has this id/)
})

test('a message retried at a pace says when its turn comes', async () => {
  const templated = orderMail({
    html: undefined,
    text: undefined,
    subject: undefined,
    template: { id: 'missing' },
  })
  for (const id of await insertMany(database, 2, templated)) await deadLetterOf(database, id)
  await database.query(`select mail.dlq_retry('{"template":"missing"}', 2, 0.001)`)
  const [later] = await database.query<{ id: string }>(
    `select j.data -> 'ids' ->> 0 as id from pgboss.job j where j.name = 'process.transactional' and j.start_after > now()`,
  )
  assert.match(
    await why(later?.id ?? ''),
    new RegExp(`^Sent again on request, at the pace that was asked for: it is processed at ${WHEN}\\.$`),
  )
})

test('without a process, mail says who is missing', async (t) => {
  const quiet = await createTestDatabase(t)
  const [row] = await quiet.query<{ id: string }>(
    'insert into mail.outbox (message) values ($1) returning id',
    [JSON.stringify(orderMail())],
  )
  const ask = async () => {
    const [answer] = await quiet.query<{ why: string }>('select mail.why($1) as why', [row?.id])
    return answer?.why ?? ''
  }
  assert.match(
    await ask(),
    /^Accepted a moment ago; the mover takes it next\. If this lasts, no Sluice process is running/,
  )
  const api = await startTestService(quiet, { SMTP_URL: sink.url, SLUICE_ROLES: 'api' })
  await untilStatus(quiet, row?.id ?? '', 'accepted')
  assert.match(
    await ask(),
    new RegExp(
      `^Waiting to be processed in stream transactional since ${WHEN}, but no worker is running\\.$`,
    ),
  )
  await quiet.query("update mail.message set status = 'queued', provider = 'default', queued_at = now()")
  assert.match(
    await ask(),
    new RegExp(`^Ready to go to provider default since ${WHEN}, but no worker is running\\.$`),
  )
  await quiet.query(
    "insert into mail.worker (name) values ('a'); update mail.message set status = 'accepted'",
  )
  assert.match(
    await ask(),
    new RegExp(`^Waiting to be processed in stream transactional behind about 0 messages, since ${WHEN}\\.$`),
  )
  await api.stop()
})
