/** Every rule that is shipped fires for its cause, says what to look at next, and is resolved when the cause is gone. */
import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import { Client } from 'pg'
import { type Database, openPool } from '../../src/db/pool.ts'
import { inTransaction } from '../../src/db/transaction.ts'
import { createLog } from '../../src/log.ts'
import { ensureQueues } from '../../src/queue/boss.ts'
import { forgetWorker } from '../../src/upkeep/queries.ts'
import { noteHealth } from '../../src/webhooks/delivery-queries.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { addProvider, note } from '../support/pacing.ts'

let database: TestDatabase
let db: Database

before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  const pool = openPool({ url: database.url, maxConnections: 2, role: undefined, log: createLog('silent') })
  database.beforeDrop(pool.close)
  db = pool.db
  for (const name of ['default', 'first']) await addProvider(database, name)
  await ensureQueues(db)
  // Nothing is waited for here; how long it has to last is another test's.
  await database.query('update mail.alert_rule set for_s = 0, clear_for_s = 0')
})

type Change = {
  readonly event: string
  readonly rule: string
  readonly subject: string
  readonly what: string
}

/** As the service does it. */
async function evaluate(): Promise<Change[]> {
  return withClient('mail_service', async (client) => {
    return (await client.query<Change>('select * from mail.evaluate_alerts()')).rows
  })
}

async function withClient<T>(role: string, work: (client: Client) => Promise<T>): Promise<T> {
  const client = new Client({ connectionString: database.url })
  await client.connect()
  try {
    await client.query(`set role ${role}`)
    return await work(client)
  } finally {
    await client.end()
  }
}

const sql =
  (...statements: string[]) =>
  async () => {
    for (const statement of statements) await database.query(statement)
  }

const COUNT = 'select mail.count_depth()'
const jobs = (queue: string, count: number, age = '1 second') =>
  `insert into pgboss.job (name, id, priority, created_on, start_after)
   select '${queue}', gen_random_uuid(), 4, now() - interval '${age}', now() - interval '${age}' from generate_series(1, ${count})`
const NO_JOBS = ["delete from pgboss.job where name like 'dispatch.%'", COUNT]

/** Counted so many seconds before the minute that is measured ends. */
const tally = (kind: string, count: number, stream: string, provider: string, before = 10) =>
  `insert into mail.tally (bucket_at, process, kind, stream, provider, count)
   values (date_bin('10 seconds', clock_timestamp(), 'epoch') - interval '${before} seconds', gen_random_uuid(), '${kind}', '${stream}', '${provider}', ${count})`
const timed = (bucket: number, count: number, stream: string) =>
  `insert into mail.tally_time (bucket_at, process, kind, stream, provider, bucket, count, seconds)
   values (date_bin('10 seconds', clock_timestamp(), 'epoch') - interval '10 seconds', gen_random_uuid(), 'time_to_send', '${stream}', 'first', ${bucket}, ${count}, 1)`
const NO_TALLY = ['delete from mail.tally', 'delete from mail.tally_time']

const waitAtDoors = (soft: number, hard: number) =>
  sql(
    `insert into mail.intake (message) select '{}' from generate_series(1, 20)`,
    `update mail.intake_limit set soft_backlog = ${soft}, hard_backlog = ${hard}`,
    COUNT,
  )
const EMPTY_DOORS = sql(
  'delete from mail.intake',
  'update mail.intake_limit set soft_backlog = default, hard_backlog = default',
  COUNT,
)

let reader: Client | undefined
let endpoint = ''

type Case = {
  readonly subject: string
  /** What the sentence says. */
  readonly says: RegExp
  readonly cause: () => Promise<unknown>
  readonly repair: () => Promise<unknown>
}

const CASES: Readonly<Record<string, Case>> = {
  dead_letters: {
    subject: 'transactional',
    says: /^101 dead letters of stream transactional wait for a person, since 20/,
    cause: sql(
      `insert into mail.dead_letter (message_id, stage, code, reason, stream, source)
       select gen_random_uuid(), 'dispatch', 'refused', 'no', 'transactional', 'x' from generate_series(1, 101)`,
      `insert into mail.dead_letter (message_id, stage, code, reason, stream, source)
       select gen_random_uuid(), 'dispatch', 'refused', 'no', 'alerts', 'x' from generate_series(1, 100)`,
    ),
    repair: sql(
      'delete from mail.dead_letter where message_id in (select message_id from mail.dead_letter limit 60)',
    ),
  },
  dead_letters_growing: {
    subject: 'marketing',
    says: /^12 messages of stream marketing became dead letters within a minute/,
    cause: sql(
      tally('dead', 7, 'marketing', ''),
      tally('dead', 5, 'marketing', 'first'),
      tally('dead', 9, 'alerts', ''),
    ),
    repair: sql(...NO_TALLY),
  },
  lag: {
    subject: 'dispatch marketing first',
    says: /^10001 messages wait in dispatch of marketing to first/,
    cause: sql(jobs('dispatch.first.marketing', 10_001), COUNT),
    repair: sql(...NO_JOBS),
  },
  waiting_long: {
    subject: 'dispatch marketing first',
    says: /^The oldest message in dispatch of marketing to first has waited for 16 minutes/,
    cause: sql(jobs('dispatch.first.marketing', 1, '16 minutes'), COUNT),
    repair: sql(...NO_JOBS),
  },
  urgent_waiting_long: {
    subject: 'dispatch transactional first',
    says: /^The oldest message in dispatch of transactional to first has waited for (9\d|1\d\d) s/,
    cause: sql(
      jobs('dispatch.first.transactional', 1, '95 seconds'),
      jobs('dispatch.first.marketing', 1, '95 seconds'),
      COUNT,
    ),
    repair: sql(...NO_JOBS),
  },
  slow_sending: {
    subject: 'marketing',
    says: /^Sending in stream marketing takes 11\d s \(95 of 100/,
    cause: sql(timed(13, 20, 'marketing')),
    repair: sql(...NO_TALLY),
  },
  urgent_slow_sending: {
    subject: 'transactional',
    says: /^Sending in stream transactional takes (19|20) s/,
    cause: sql(timed(10, 6, 'transactional'), timed(10, 30, 'marketing'), timed(10, 4, 'alerts')),
    repair: sql(...NO_TALLY),
  },
  error_rate: {
    subject: 'transactional first',
    says: /^10\.0 % of the last minute's attempts in stream transactional to first failed/,
    cause: sql(
      tally('sent', 90, 'transactional', 'first'),
      tally('deferred', 10, 'transactional', 'first'),
      // Too few to say anything, and some that are no failure.
      tally('deferred', 5, 'marketing', 'first'),
      tally('processed', 100, 'marketing', ''),
      tally('dead', 2, 'marketing', ''),
    ),
    repair: sql(...NO_TALLY),
  },
  retry_rate: {
    subject: 'transactional first',
    says: /^30\.0 % of the last minute's attempts/,
    cause: sql(
      tally('sent', 100, 'transactional', 'first'),
      tally('retried', 30, 'transactional', 'first'),
      tally('sent', 100, 'marketing', 'first'),
    ),
    repair: sql(...NO_TALLY),
  },
  growth: {
    subject: 'dispatch marketing first',
    says: /^What waits in dispatch of marketing to first grows by [6-9]\d\.\d+ messages a second, and is 6000/,
    cause: sql(
      jobs('dispatch.first.marketing', 6_000),
      COUNT,
      'delete from mail.sample',
      'select mail.take_sample()',
      "update mail.sample set at = at - interval '70 seconds', ready = 0",
      COUNT,
    ),
    repair: sql(...NO_JOBS, 'delete from mail.sample'),
  },
  rate_dropped: {
    subject: 'dispatch transactional',
    says: /^Dispatch of stream transactional fell to 10 messages a minute from 100, while some wait/,
    cause: sql(
      tally('sent', 1_000, 'transactional', 'first', 300),
      tally('sent', 10, 'transactional', 'first'),
      // Nothing of it waits: less is sent because less comes.
      tally('sent', 1_000, 'marketing', 'first', 300),
      jobs('dispatch.first.transactional', 1, '50 seconds'),
      COUNT,
    ),
    repair: sql(...NO_TALLY, ...NO_JOBS),
  },
  breaker_open: {
    subject: 'first',
    says: /^The breaker of provider first is open/,
    cause: () => note(database, 'first', { faults: 5 }),
    repair: sql("select mail.close_breaker('first')"),
  },
  provider_unusable: {
    subject: 'default',
    says: /^A worker cannot use provider default/,
    cause: sql(
      "insert into mail.provider_state (provider, unusable_reason) values ('default', 'not set there')",
    ),
    repair: sql('update mail.provider_state set unusable_reason = null'),
  },
  intake_loss: {
    subject: '',
    says: /^A crash of Postgres emptied the unlogged intake: from \d+ to [1-9]\d* buffered messages were lost/,
    cause: sql(
      'select mail.watch_intake()',
      `insert into mail.intake (message) select '{}' from generate_series(1, 7)`,
      'select mail.watch_intake()',
      'truncate mail.intake, mail.intake_canary',
      'select mail.watch_intake()',
    ),
    repair: sql("update mail.intake_loss set noticed_at = now() - interval '61 minutes'"),
  },
  intake_pressure: {
    subject: '',
    says: /^20 messages wait at the doors, the oldest for .*: the API refuses mail that is not urgent/,
    cause: waitAtDoors(10, 30),
    repair: EMPTY_DOORS,
  },
  intake_refusing: {
    subject: '',
    says: /the API refuses all mail/,
    cause: waitAtDoors(5, 15),
    repair: EMPTY_DOORS,
  },
  long_transaction: {
    subject: 'pid',
    says: /^A transaction of role \w+, application a report has been open for 10 minutes and keeps vacuum/,
    cause: async () => {
      reader = new Client({ connectionString: database.url, application_name: 'a report' })
      await reader.connect()
      database.beforeDrop(() => Promise.resolve(reader?.end()))
      const { rows } = await reader.query<{ pid: number }>('select pg_backend_pid() as pid')
      await reader.query('begin isolation level repeatable read; select 1')
      // Another role's session: its start is not told, only that it is there.
      assert.ok(!(await evaluate()).some(({ rule }) => rule === 'long_transaction'))
      // No other: tests beside this one have transactions open on the same server.
      await database.query(
        "update mail.snapshot_seen set first_seen_at = first_seen_at - interval '10 minutes' where pid = $1",
        [rows[0]?.pid],
      )
    },
    repair: async () => reader?.query('rollback'),
  },
  worker_died: {
    subject: '',
    says: /^A worker died within ten minutes, and its work was given back; the latest was here:1/,
    cause: async () => {
      const [row] = await database.query<{ number: number; lock_key: number }>(
        "insert into mail.worker (name) values ('here:1') returning number, lock_key",
      )
      assert.ok(row)
      await inTransaction(db, (trx) => forgetWorker(trx, row))
    },
    repair: sql("update mail.worker_death set died_at = died_at - interval '11 minutes'"),
  },
  worker_silent: {
    subject: 'here:2',
    says: /^Worker here:2 has not been heard of for [4-9]\d s/,
    cause: sql(
      "insert into mail.worker (name, seen_at) values ('here:2', now() - interval '40 seconds'), ('here:3', now())",
    ),
    repair: sql('delete from mail.worker'),
  },
  no_worker: {
    subject: '',
    says: /^No worker runs, and 3 messages wait/,
    cause: sql(jobs('dispatch.first.marketing', 3), COUNT),
    repair: sql("insert into mail.worker (name) values ('here:4')"),
  },
  endpoint_disabled: {
    subject: 'endpoint',
    says: /^Webhook endpoint .{36} at app\.example\.com was disabled/,
    cause: async () => {
      const [row] = await database.query<{ id: string }>(
        "select id from mail.webhook_create('https://app.example.com/hook/a-token')",
      )
      endpoint = row?.id ?? ''
      const health = { failures: 1, hasSucceeded: false, isGone: true, lastFailure: 'status 410' }
      await inTransaction(db, (trx) =>
        noteHealth(trx, endpoint, { ...health, firstFailureAt: new Date().toISOString() }),
      )
      await database.query(
        "select mail.webhook_disable(id) from mail.webhook_create('https://by.example.com')",
      )
    },
    repair: () => database.query('select mail.webhook_enable($1)', [endpoint]),
  },
  feedback_parked: {
    subject: 'dsn',
    says: /^11 calls of webhook source dsn could not be read or applied/,
    cause: sql(
      `insert into mail.feedback (endpoint, kind, event_key, state, reason, body)
       select 'dsn', 'dsn', n::text, 'parked', 'no report', '' from generate_series(1, 11) n`,
    ),
    repair: sql("update mail.feedback set state = 'applied', reason = null"),
  },
  feedback_unmatched: {
    subject: 'first',
    says: /^101 events of provider first within an hour were about no message/,
    cause: sql(
      `insert into mail.feedback_unmatched (provider, key, event) select 'first', n::text, '{}' from generate_series(1, 101) n`,
    ),
    repair: sql("update mail.feedback_unmatched set received_at = now() - interval '61 minutes'"),
  },
  partitions_missing: {
    subject: '',
    says: /^1 daily partitions of the next days are missing, the first of 20/,
    cause: async () => {
      await database.query('select mail.ensure_partitions()')
      const [row] = await database.query<{ name: string }>(
        "select to_char((now() at time zone 'utc')::date + 1, '\"event_\"YYYYMMDD') as name",
      )
      await database.query(`drop table mail.${row?.name}`)
    },
    repair: sql('select mail.ensure_partitions()'),
  },
  sending_held: {
    subject: '',
    says: /^Nothing is sent since .*: restored; a person ends that with mail.release/,
    cause: sql("select mail.hold('restored')"),
    repair: sql("select mail.release('send')"),
  },
}

function expectedSubject({ subject }: Case): RegExp {
  if (subject === 'pid') return /^pid \d+$/
  return subject === 'endpoint' ? new RegExp(`^${endpoint}$`) : new RegExp(`^${subject}$`)
}

for (const [rule, each] of Object.entries(CASES)) {
  test(`${rule} fires once, says what to look at next, and is resolved`, async () => {
    const of = (changes: Change[]) => changes.filter((change) => change.rule === rule)
    assert.deepEqual(of(await evaluate()), [])
    await each.cause()
    const fired = of(await evaluate())
    assert.equal(fired.length, 1, JSON.stringify(fired))
    assert.equal(fired[0]?.event, 'fired')
    assert.match(fired[0]?.subject ?? '', expectedSubject(each))
    assert.match(fired[0]?.what ?? '', each.says)
    assert.deepEqual(of(await evaluate()), [])

    const [alert] = await database.query<{ command: string }>(
      'select command from mail.alerts_now where rule = $1',
      [rule],
    )
    const answers = await withClient('mail_operator', (client) => client.query(alert?.command ?? ''))
    // One answer for each statement: what shows the trouble comes first.
    const [first] = [answers].flat()
    assert.ok(first !== undefined && first.fields.length > 0, alert?.command)

    await each.repair()
    const resolved = of(await evaluate())
    assert.deepEqual(
      resolved.map(({ event, subject }) => [event, subject]),
      [['resolved', fired[0]?.subject]],
    )
    const [kept] = await database.query<{ is_kept: boolean }>(
      `select resolved_at is not null and worst_value > threshold as is_kept from mail.alert where rule = $1`,
      [rule],
    )
    assert.equal(kept?.is_kept, true)
  })
}

test('every rule that is shipped was tried', async () => {
  const rules = await database.query<{ name: string }>('select name from mail.alert_rule order by name')
  assert.deepEqual(
    rules.map(({ name }) => name),
    Object.keys(CASES).toSorted(),
  )
})
