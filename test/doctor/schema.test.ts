/** What is Sluice's own in the database, spoilt one thing at a time. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { Client } from 'pg'
import { WORKER_LOCK } from '../../src/db/session.ts'
import { checkIntake } from '../../src/doctor/intake.ts'
import { checkKeys } from '../../src/doctor/keys.ts'
import { checkMigrations } from '../../src/doctor/migrations.ts'
import { checkPartitions } from '../../src/doctor/partitions.ts'
import { checkRoles } from '../../src/doctor/roles.ts'
import { checkStreams } from '../../src/doctor/streams.ts'
import { checkWorkers } from '../../src/doctor/workers.ts'
import { VERSION } from '../../src/version.ts'
import { createTestDatabase, type TestDatabase, withDatabase } from '../support/database.ts'
import { assertAllOk, assertFinding, openReader } from './findings.ts'

async function askOf<T>(
  database: TestDatabase,
  check: (reader: Awaited<ReturnType<typeof openReader>>) => Promise<T>,
) {
  return check(await openReader(database))
}

describe('migrations', () => {
  test('that are all there and unchanged are well', async (t) => {
    const { state, finding } = await askOf(await createTestDatabase(t), checkMigrations)
    assert.equal(state, 'current')
    assertAllOk(finding)
  })

  for (const { what, spoil, state, verdict, says } of [
    {
      what: 'that are missing are named',
      spoil: 'delete from mail.migration where version = 2',
      state: 'other',
      verdict: 'problem',
      says: /lacks 0002_inbox.sql/,
    },
    {
      what: 'of a later version are named',
      spoil: "insert into mail.migration (version, name) values (9999, '9999_later.sql')",
      state: 'other',
      verdict: 'problem',
      says: /newer than this version: it has 9999_later.sql/,
    },
    {
      what: 'that were changed afterwards are named',
      spoil: "update mail.migration set digest = 'other' where version = 1",
      state: 'other',
      verdict: 'warning',
      says: /changed since this database had them: 0001_intake.sql/,
    },
    {
      what: 'that were never run are a problem',
      spoil: 'drop schema mail cascade',
      state: 'none',
      verdict: 'problem',
      says: /has not been migrated/,
    },
  ] as const) {
    test(what, async (t) => {
      const database = await createTestDatabase(t)
      await database.query(spoil)
      const found = await askOf(database, checkMigrations)
      assert.equal(found.state, state)
      assertFinding(found.finding, 'migrations', verdict, says)
    })
  }
})

describe('roles', () => {
  test('a right that was taken away is named', async (t) => {
    const database = await createTestDatabase(t)
    assertAllOk(await askOf(database, checkRoles))
    await database.query('revoke select on mail.stream from mail_service')
    await database.query('revoke insert on mail.outbox from mail_enqueue')
    await database.query('revoke insert (message) on mail.outbox from mail_enqueue')
    await database.query('grant usage on schema mail to public')
    const found = await askOf(database, checkRoles)
    assertFinding(
      found,
      'grants',
      'problem',
      /insert into mail.outbox to mail_enqueue, mail.stream to mail_service/,
    )
    assertFinding(found, 'grants', 'warning', /every user of the server/)
  })

  test('a user who may not work as mail_service is told how to', async (t) => {
    const database = await createTestDatabase(t)
    const user = `stranger_${new URL(database.url).pathname.slice(-8)}`
    await database.query(`create role ${user} login password 'secret'`)
    database.beforeDrop(() => database.query(`drop role ${user}`))
    const url = new URL(database.url)
    url.username = user
    url.password = 'secret'
    const found = await askOf({ ...database, url: url.href }, checkRoles)
    const { advice } = assertFinding(found, 'roles', 'problem', /may not work as mail_service/)
    assert.equal(advice, `grant mail_service to ${user}`)
  })
})

describe('partitions', () => {
  test('that nobody made ahead are a problem, and rows without a day a warning', async (t) => {
    const database = await createTestDatabase(t)
    assertAllOk(await askOf(database, checkPartitions))
    await database.query(`do $$
      declare old regclass;
      begin
        for old in select inhrelid from pg_inherits where inhparent = 'mail.finder'::regclass
          and inhrelid::regclass::text ~ '_[0-9]{8}$'
        loop
          execute format('drop table %s', old);
        end loop;
      end $$`)
    await database.query(
      "insert into mail.finder (term, message_id) values ('to:ann@example.net', mail.uuid7())",
    )
    const found = await askOf(database, checkPartitions)
    assertFinding(found, 'partitions', 'problem', /^0 days ahead in finder$/)
    assertFinding(found, 'default partitions', 'warning', /default partition of finder/)
    await database.query('select mail.ensure_partitions(2)')
    assertFinding(await askOf(database, checkPartitions), 'partitions', 'warning', /^2 days ahead in finder$/)
  })
})

describe('workers', () => {
  test('none, dead, silent and of another version are told apart', async (t) => {
    const database = await createTestDatabase(t)
    assertFinding(await askOf(database, checkWorkers), 'workers', 'warning', /none is running/)
    const numbers = await database.query<{ number: number }>(
      `insert into mail.worker (name, version, seen_at) values
         ('well:1', $1, now()), ('silent:2', $1, now() - interval '5 minutes'), ('old:3', '0.0.1', now()), ('dead:4', $1, now())
       returning number`,
      [VERSION],
    )
    const holder = new Client({ connectionString: database.url })
    await holder.connect()
    database.beforeDrop(() => holder.end())
    for (const { number } of numbers.slice(0, 3)) {
      await holder.query(
        `with mine as (update mail.worker set backend_pid = pg_backend_pid() where number = $2 returning lock_key)
         select pg_advisory_lock($1, lock_key) from mine`,
        [WORKER_LOCK, number],
      )
    }
    const found = await askOf(database, checkWorkers)
    assertFinding(found, 'workers', 'ok', /^3 workers: well:1, silent:2, old:3$/)
    assertFinding(found, 'workers', 'warning', /^silent:2 .* not heard of for 5 min|^silent:2 .* 300 s/)
    assertFinding(found, 'versions', 'warning', /old:3 \(0.0.1\)/)
    assertFinding(found, 'dead workers', 'warning', /dead:4$/)
  })
})

describe('streams', () => {
  test('without a provider, paused, or without a link are told of', async (t) => {
    const database = await createTestDatabase(t)
    await database.query(
      "insert into mail.provider (name, transport) values ('default', 'inbox'), ('held', 'inbox')",
    )
    const publicUrl = 'https://mail.example.com'
    assertAllOk(await askOf(database, (reader) => checkStreams(reader, { publicUrl })))
    await database.query(`
      -- A restore without triggers can leave what they forbid.
      alter table mail.stream disable trigger user;
      insert into mail.stream (name, route) values
        ('lost', '{gone,away}'), ('half', '{default,gone}'), ('waiting', '{held}');
      select mail.pause('held', 'provider');
      select mail.pause('alerts', 'stream')`)
    const found = await askOf(database, (reader) => checkStreams(reader, { publicUrl: undefined }))
    assertFinding(found, 'routes', 'problem', /stream lost goes to away, gone/)
    assertFinding(found, 'routes', 'warning', /route of half names gone/)
    assertFinding(found, 'routes', 'warning', /any provider of waiting now \(held\)/)
    assertFinding(found, 'paused', 'warning', /stream alerts is paused/)
    assertFinding(found, 'links to unsubscribe', 'warning', /^marketing: mail goes out without/)
    await database.query(
      "update mail.stream set unsubscribe_mailto = 'stop@example.com' where name = 'marketing'",
    )
    const byMail = await askOf(database, (reader) => checkStreams(reader, { publicUrl: undefined }))
    assertFinding(byMail, 'links to unsubscribe', 'warning', /^marketing: by mail only/)
  })
})

describe('keys', () => {
  const url = 'postgresql://somewhere'

  test('none at all, weak ones and those that end soon are told of', async (t) => {
    const database = await createTestDatabase(t)
    const keysWith = (config: Parameters<typeof checkKeys>[1]) =>
      askOf(database, (reader) => checkKeys(reader, config))
    const none = { apiKey: undefined, databaseUrl: url, isProduction: true }
    assertFinding(await keysWith(none), 'keys', 'problem', /there is none/)
    assertAllOk(await keysWith({ ...none, databaseUrl: undefined }))
    assertFinding(
      await keysWith({ ...none, apiKey: 'sixteen-chars-00' }),
      'keys',
      'warning',
      /has 16 characters/,
    )
    await database.query(
      `insert into mail.api_key (id, name, hash, expires_at) values
         ('a', 'shop', sha256('a'), now() + interval '5 days'), ('b', 'blog', sha256('b'), now() + interval '90 days'),
         ('c', 'gone', sha256('c'), now() - interval '1 day')`,
    )
    const found = await keysWith(none)
    assertFinding(found, 'keys', 'ok', /^2 stored keys$/)
    assertFinding(found, 'keys that end', 'warning', /^shop \(a\) in 5 days$/)
  })
})

test('what crashes of Postgres took in the last week is told', async (t) => {
  const database = await createTestDatabase(t)
  await database.query(
    `insert into mail.intake_loss (noticed_at, intact_at, at_least, at_most) values
       (now() - interval '8 days', now() - interval '8 days', 100, 100), (now(), now(), 0, 0)`,
  )
  assertAllOk(await askOf(database, checkIntake))
  await database.query(
    'insert into mail.intake_loss (intact_at, at_least, at_most) values (now(), 3, 8), (now(), 1, 1)',
  )
  assertFinding(await askOf(database, checkIntake), 'intake losses', 'warning', /^4 to 9 buffered messages/)
})

test('nothing can be written through the reader, and a failed question does not spoil the next', async (t) => {
  const database = await createTestDatabase(t)
  const { ask } = await openReader(database)
  await assert.rejects(ask("update mail.stream set priority = 1 where name = 'alerts'"), { code: '25006' })
  const answers = await Promise.allSettled([
    ask('select 1 / 0'),
    ask('select 1 as one'),
    ask('select nothing'),
  ])
  assert.deepEqual(
    answers.map(({ status }) => status),
    ['rejected', 'fulfilled', 'rejected'],
  )
  const { ask: askElsewhere } = await openReader({ ...database, url: withDatabase(database.url, 'postgres') })
  assert.equal((await askElsewhere('select 1')).length, 1)
})
