/** What each role does with its rights; that it has no others is in test/security/rights.test.ts. */
import assert from 'node:assert/strict'
import { before, describe, test } from 'node:test'
import { Client, type QueryResultRow } from 'pg'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { orderMail, startTestService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'

const DENIED = { code: '42501' }
const MAIL = JSON.stringify(orderMail())
/** A message that was sent, for the statements that need one. */
let sentId: string
let database: TestDatabase

before(async (t) => {
  const context = t as Parameters<typeof createTestDatabase>[0]
  const sink = await startSmtpSink(context)
  database = await createTestDatabase(context)
  const service = await startTestService(database, { SMTP_URL: sink.url })
  const response = await service.request('/emails', { body: orderMail() })
  sentId = ((await response.json()) as { id: string }).id
  await eventually('the mail was sent', async () => {
    const rows = await database.query("select 1 from mail.message where status = 'sent'")
    return rows.length === 1
  })
  await service.stop()
})

/** Runs the statement as this role and undoes it. */
async function as<Row extends QueryResultRow>(role: string, statement: string): Promise<Row[]> {
  const client = new Client({ connectionString: database.url })
  await client.connect()
  try {
    await client.query('begin')
    await client.query(`set local role ${role}`)
    return (await client.query<Row>(statement)).rows
  } finally {
    await client.end()
  }
}

const READER_VIEWS = [
  'queue',
  'dlq',
  'dlq_summary',
  'provider_status',
  'provider_event',
  'stream',
  'provider',
  'bucket',
  'worker',
  'intake_loss',
  'webhook_source',
  'webhook_status',
  'feedback_parked',
  'intake_limit',
  'intake_pressure',
  'webhook_endpoint_status',
  'send_window',
  'domain_limit',
  'alert',
  'alert_rule',
  'alert_measure',
  'alert_silence',
  'alerts_now',
  'old_transaction',
  'partition_gap',
  'held',
  'sending_hold',
]
const OPERATOR_TABLES = [
  ...READER_VIEWS,
  'bucket_level',
  'webhook_refusal',
  'provider_state',
  'message',
  'event',
  'scheduled',
  'suppression',
  'waiting_job',
  'dead_letter',
  'suppression_rule',
  'feedback_unmatched',
  'webhook_endpoint',
  'webhook_attempt',
  'domain_pace',
  'alert_delivery',
  'alert_notice',
  'worker_death',
  'lifeline',
  'hold_setting',
]
/** Statements that change what only the service, through its own code, may change. */
const WRITES = [
  "update mail.message set status = 'canceled'",
  'delete from mail.message',
  'delete from mail.dead_letter',
  "insert into mail.provider (name, transport) values ('evil', 'inbox')",
  'update mail.stream set attempts = 1',
  "update mail.provider set credentials_env = 'OTHER'",
  'update mail.provider_state set blocked_until = null',
  'delete from mail.domain_pace',
  "update mail.send_window set stream = 'alerts'",
  'delete from mail.provider_event',
  "select mail.use_retry_preset('alerts', 'patient')",
  "select mail.open_breaker('default', 'x')",
  "select * from mail.take_tokens('default', 1)",
  "select mail.revive('{}', 1)",
  "select mail.discard('{}')",
  "select mail.drop_partition('message', current_date)",
  'select * from mail.delete_messages(null, null, null)',
  "select * from mail.take_request_tokens('x', 1)",
  "insert into mail.api_key (id, name, hash) values ('x', 'x', sha256('x'))",
  "insert into mail.suppression (address, reason) values ('a@example.com', 'x')",
  "select mail.store_suppressions('[]')",
  "select mail.suppress_after('[]')",
  'delete from mail.feedback_unmatched',
  'insert into mail.suppression_rule default values',
  'delete from mail.event',
  "insert into mail.webhook_source (name, kind, secrets_env) values ('evil', 'generic', 'PATH')",
  "update mail.webhook_source set secrets_env = 'PATH'",
  'delete from mail.feedback',
  'delete from mail.scheduled',
  'select mail.withdraw(m) from mail.message m',
  'truncate mail.intake',
  'delete from mail.intake_limit',
  'select mail.ensure_partitions()',
  "select mail.ensure_queue('process.evil', '{}')",
  "select * from mail.webhook_create('https://evil.example.com')",
  'select mail.webhook_rotate(gen_random_uuid())',
  'select mail.webhook_remove(gen_random_uuid())',
  "update mail.webhook_endpoint set url = 'https://evil.example.com'",
  "select mail.webhook_requeue(gen_random_uuid(), '{}')",
  'select mail.apply_grants()',
  'select * from mail.watch_intake()',
  'delete from mail.alert',
  "insert into mail.alert_target (name, kind, url) values ('evil', 'generic', 'https://evil.example.com')",
  "update mail.alert_target set url = 'https://evil.example.com'",
  'select * from mail.evaluate_alerts()',
  'create table mail.mine ()',
  'select * from pgboss.job',
  'delete from mail.sending_hold',
  'update mail.lifeline set beat = 1',
  "select * from mail.look_at_lifeline(null, null, null, '[]')",
  "select mail.set_aside(h, 'canceled') from mail.sending_hold h",
]

async function mayNot(role: string, statements: readonly string[]): Promise<void> {
  for (const statement of statements)
    await assert.rejects(as(role, statement), DENIED, `${role}: ${statement}`)
}

describe('mail_enqueue', () => {
  test('may append to both doors, with the columns of a caller, and use mail.send', async () => {
    for (const door of ['intake', 'outbox']) {
      await as('mail_enqueue', `insert into mail.${door} (message) values ('${MAIL}')`)
      await as(
        'mail_enqueue',
        `insert into mail.${door} (message, stream, priority, idempotency_key, source)
         values ('${MAIL}', 'alerts', 1, 'key', 'a report')`,
      )
    }
    const [sent] = await as<{ id: string }>('mail_enqueue', `select mail.send('${MAIL}', 'key') as id`)
    assert.match(sent?.id ?? '', /^[0-9a-f-]{36}$/)
    const [attached] = await as<{ sha256: string }>(
      'mail_enqueue',
      "select mail.attach('abc'::bytea) as sha256",
    )
    assert.match(attached?.sha256 ?? '', /^ba7816bf[0-9a-f]{56}$/)
  })

  test('may not choose what orders and names a message', async () => {
    for (const door of ['intake', 'outbox']) {
      await mayNot('mail_enqueue', [
        `insert into mail.${door} (id, message) values (gen_random_uuid(), '${MAIL}')`,
        `insert into mail.${door} (seq, message) values (1, '${MAIL}')`,
        `insert into mail.${door} (received_at, message) values (now(), '${MAIL}')`,
        `insert into mail.${door} (message) values ('${MAIL}') returning id`,
      ])
    }
    await mayNot('mail_enqueue', ["select setval('mail.message_seq', 1)"])
  })

  test('changes nothing, and asks nothing', async () => {
    await mayNot('mail_enqueue', WRITES)
    await mayNot('mail_enqueue', [
      'delete from mail.outbox',
      'update mail.outbox set priority = 0',
      `select mail.why('${sentId}')`,
      "select mail.suppress('a@example.com')",
      "insert into mail.attachment (sha256, size, content) values (sha256('abc'), 3, 'abc')",
    ])
  })
})

describe('mail_reader', () => {
  test('may look at the views', async () => {
    for (const view of READER_VIEWS) await as('mail_reader', `select * from mail.${view}`)
  })

  test('changes nothing, and asks nothing about single messages', async () => {
    await mayNot('mail_reader', WRITES)
    await mayNot('mail_reader', [
      `insert into mail.outbox (message) values ('${MAIL}')`,
      `select mail.send('${MAIL}')`,
      `select mail.why('${sentId}')`,
    ])
  })
})

/** What an operator does, and nobody with less. */
const REPAIRS = [
  "select mail.pause('marketing')",
  "select mail.resume('marketing')",
  "select mail.pause('default', 'provider'), mail.resume('default', 'provider')",
  'select mail.dlq_retry(gen_random_uuid())',
  'select mail.dlq_discard(gen_random_uuid())',
  'select mail.feedback_retry()',
  "select mail.settle_unknown(gen_random_uuid(), 'sent')",
  'select mail.cancel(gen_random_uuid())',
  'select mail.reschedule(gen_random_uuid(), now())',
  'select mail.webhook_disable(gen_random_uuid()), mail.webhook_enable(gen_random_uuid())',
  "select mail.webhook_replay('msg_none')",
  "insert into mail.bucket (provider, name, quota) values ('default', 'mine', 5) on conflict (provider, name) do update set quota = 5",
  "update mail.bucket set quota = 1 where name = 'none'",
  "select mail.suppress_many('{a@example.net}', 'old list', 'marketing')",
  'update mail.suppression_rule set soft_bounces = 3',
  "delete from mail.bucket where name = 'none'",
  'update mail.intake_limit set soft_backlog = 5',
  `insert into mail.send_window (stream, days, opens, closes, time_zone)
   values ('marketing', '{mon}', '20:00', '08:00', 'Europe/Berlin')`,
  "update mail.send_window set opens = '21:00', time_zone = 'UTC'",
  'delete from mail.send_window',
  "insert into mail.domain_limit (domain, quota) values ('gmail.com', 20)",
  'update mail.domain_limit set quota = 5, burst = 2',
  'delete from mail.domain_limit',
  'update mail.alert_rule set threshold = 5, clear_at = 5',
  "delete from mail.alert_rule where name = 'lag'",
  'update mail.alert_target set enabled = false',
  "select mail.silence('lag'), mail.unsilence('lag'), mail.acknowledge(gen_random_uuid())",
  'select * from mail.retention_plan()',
  'select * from mail.retain(1)',
  'update mail.retention set stat_days = 500',
  "select * from mail.erase('nobody@example.net')",
]

describe('mail_operator', () => {
  test('may pause, slow down, retry, discard and settle, which nobody with less may', async () => {
    for (const statement of REPAIRS) await as('mail_operator', statement)
    for (const verb of ['retry', 'discard']) {
      await assert.rejects(as('mail_operator', `select mail.dlq_${verb}('{"code":"none"}', 1)`), {
        code: 'P0002',
      })
    }
    for (const role of ['mail_reader', 'mail_enqueue']) await mayNot(role, REPAIRS)
  })

  test('may see where mail stands and why, and keep the suppression list', async () => {
    for (const table of OPERATOR_TABLES) await as('mail_operator', `select * from mail.${table}`)
    const [row] = await as<{ why: string }>('mail_operator', `select mail.why('${sentId}') as why`)
    assert.match(row?.why ?? '', /^Not waiting: provider default accepted it/)
    await as('mail_operator', "select mail.suppress('Ann@Example.net'), mail.unsuppress('ann@example.net')")
  })

  test('may see which events were told, and how that went, and not what was told', async () => {
    await as('mail_operator', 'select id, type, state, last_status from mail.webhook_delivery')
    await mayNot('mail_operator', ['select payload from mail.webhook_delivery'])
  })

  test('may see who is told of alerts, and not the URL, which may be a secret', async () => {
    await as('mail_operator', 'select name, kind, url_env, enabled from mail.alert_target')
    await mayNot('mail_operator', ['select url from mail.alert_target'])
  })

  test('changes nothing by hand', async () => {
    await mayNot('mail_operator', WRITES)
    await mayNot('mail_operator', [
      `insert into mail.outbox (message) values ('${MAIL}')`,
      `select mail.send('${MAIL}')`,
    ])
  })
})

describe('mail_service', () => {
  test('may do what the running service does', async () => {
    for (const statement of [
      `insert into mail.intake (message) values ('${MAIL}')`,
      `select mail.send('${MAIL}')`,
      'delete from mail.outbox',
      "update mail.message set status = 'sent'",
      'select mail.ensure_partitions()',
      'select mail.ensure_queue(\'process.fresh\', \'{"policy":"standard"}\')',
      'select * from mail.watch_intake()',
      'select * from pgboss.job',
    ]) {
      await as('mail_service', statement)
    }
  })

  test('may not change the schema, the register of migrations or the rights', async () => {
    await mayNot('mail_service', [
      'create table mail.mine ()',
      'alter table mail.message add column x integer',
      'drop table mail.event',
      'truncate mail.message',
      'delete from mail.migration',
      "insert into mail.migration (version, name) values (9999, 'x')",
      'select mail.apply_grants()',
      'create role mail_evil',
      'grant mail_owner to mail_service',
    ])
  })

  test('makes only queues that are named like its own', async () => {
    for (const name of [
      'evil',
      'process',
      "process.a'; drop",
      'process.A',
      'other.a',
      'dispatch.a.b.c',
      'feedback.a',
    ]) {
      await assert.rejects(as('mail_service', `select mail.ensure_queue($q$${name}$q$, '{}')`), {
        code: '22023',
      })
    }
  })
})

describe('the catalog', () => {
  test('every function of ours pins its search path', async () => {
    const loose = await database.query(
      `select oid::regprocedure::text from pg_proc
       where pronamespace = 'mail'::regnamespace
         and 'search_path=pg_catalog, mail, pg_temp' <> all (coalesce(proconfig, '{}'))`,
    )
    assert.deepEqual(loose, [])
  })

  test('nobody may do anything without a role', async () => {
    const open = await database.query(
      `select oid::regprocedure::text from pg_proc
       where pronamespace in ('mail'::regnamespace, 'pgboss'::regnamespace)
         and has_function_privilege('public', oid, 'execute')`,
    )
    assert.deepEqual(open, [])
    const [schemas] = await database.query(
      `select has_schema_privilege('public', 'mail', 'usage') as usage, has_schema_privilege('public', 'mail', 'create') as makes,
         has_schema_privilege('public', 'pgboss', 'usage') as boss`,
    )
    assert.deepEqual(schemas, { usage: false, makes: false, boss: false })
  })

  test('partitions and queues made later are open to the service and to nobody else', async () => {
    await database.query(
      'select mail.ensure_partitions(12), mail.ensure_queue(\'process.later\', \'{"policy":"standard","partition":true}\')',
    )
    const open = await database.query(
      `select c.oid::regclass::text as name, role
       from pg_class c, unnest(array['mail_enqueue', 'mail_reader', 'mail_operator']) role
       where c.relispartition and c.relkind = 'r' and c.relnamespace in ('mail'::regnamespace, 'pgboss'::regnamespace)
         and (has_table_privilege(role, c.oid, 'select') or has_table_privilege(role, c.oid, 'insert'))`,
    )
    assert.deepEqual(open, [])
    const closed = await database.query(
      `select c.oid::regclass::text as name from pg_class c
       where c.relispartition and c.relkind = 'r' and c.relnamespace in ('mail'::regnamespace, 'pgboss'::regnamespace)
         and not has_table_privilege('mail_service', c.oid, 'select, insert, update, delete')`,
    )
    assert.deepEqual(closed, [])
  })
})
