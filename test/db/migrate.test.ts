import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { type TestContext, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { Client, type QueryResultRow } from 'pg'
import { migrate } from '../../src/db/migrate.ts'
import { SchemaError } from '../../src/db/schema-error.ts'
import { MESSAGE_STATES } from '../../src/states.ts'
import { createTestDatabase, startTestPostgres, withDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { orderMail, startTestService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'
import { stallMigrations } from '../support/stalled-migration.ts'

type Line = { readonly fields: Record<string, unknown>; readonly text: string }

function listening() {
  const warnings: Line[] = []
  const log = {
    info: () => undefined,
    warn: (fields: object, line: string) => warnings.push({ fields: { ...fields }, text: line }),
  }
  return { log, warnings }
}

async function query<Row extends QueryResultRow>(url: string, statement: string, values?: unknown[]) {
  const client = new Client({ connectionString: url })
  await client.connect()
  try {
    return (await client.query<Row>(statement, values)).rows
  } finally {
    await client.end()
  }
}

function asUser(url: string, user: string): string {
  const changed = new URL(url)
  changed.username = user
  changed.password = 'secret'
  return changed.href
}

/** What a migration run could have changed: every object, grant, queue and applied migration. */
async function pictureOf(url: string): Promise<unknown> {
  return query(
    url,
    `select kind, name, detail from (
       select 'relation' as kind, c.oid::regclass::text as name, c.relkind::text || coalesce(c.relacl::text, '') as detail
       from pg_class c where c.relnamespace in ('mail'::regnamespace, 'pgboss'::regnamespace)
       union all
       select 'function', p.oid::regprocedure::text, md5(p.prosrc) || coalesce(p.proacl::text, '')
       from pg_proc p where p.pronamespace in ('mail'::regnamespace, 'pgboss'::regnamespace)
       union all
       select 'migration', name, version || ' ' || applied_at from mail.migration
       union all
       select 'queue', name, '' from pgboss.queue
       union all
       select 'role', rolname, rolsuper::text || rolcanlogin::text from pg_roles where rolname like 'mail%'
     ) picture order by 1, 2, 3`,
  )
}

test('two processes, and two databases of one server, are migrated at the same moment without harm', async (t) => {
  const { url } = await startTestPostgres(t)
  const names = ['one', 'two', 'three']
  for (const name of names) await query(url, `create database ${name}`)
  const runs = await Promise.all(
    names.flatMap((name) =>
      [1, 2].map(async () => ({
        name,
        ...(await migrate({ url: withDatabase(url, name), log: listening().log })),
      })),
    ),
  )
  for (const name of names) {
    const applied = runs.filter((run) => run.name === name).map((run) => run.applied.length)
    assert.equal(Math.min(...applied), 0, 'one finds nothing to do')
    const rows = await query(withDatabase(url, name), 'select version from mail.migration')
    assert.deepEqual([Math.max(...applied), rows.length > 0], [rows.length, true])
  }
  assert.ok(runs.every(({ serviceRole }) => serviceRole === 'mail_service'))
})

test('running again changes nothing', async (t) => {
  const database = await createTestDatabase(t)
  const before = await pictureOf(database.url)
  const { applied } = await migrate({ url: database.url, log: listening().log })
  assert.deepEqual(applied, [])
  assert.deepEqual(await pictureOf(database.url), before)
})

test('a newer database refuses, says why, and is left as it was', async (t) => {
  const database = await createTestDatabase(t)
  await database.query("insert into mail.migration (version, name) values (9999, '9999_from_the_future.sql')")
  const before = await pictureOf(database.url)
  await assert.rejects(migrate({ url: database.url, log: listening().log }), (error) => {
    assert.ok(error instanceof SchemaError)
    assert.equal(error.code, 'database_newer')
    return true
  })
  for (const command of [[], ['migrate']]) {
    const { code, errors } = await runMain(t, database.url, command)
    assert.equal(code, 78)
    assert.match(errors, /database is newer than this service: it has 9999_from_the_future\.sql/)
  }
  assert.deepEqual(await pictureOf(database.url), before)
})

test('a migration that fails leaves nothing of itself', async (t) => {
  const database = await createTestDatabase(t)
  // The newest one is taken out of the register, so that it runs into its own objects.
  await database.query('delete from mail.migration where version = (select max(version) from mail.migration)')
  const before = await pictureOf(database.url)
  await assert.rejects(migrate({ url: database.url, log: listening().log }), /failed and was rolled back/)
  assert.deepEqual(await pictureOf(database.url), before)
})

test('a connection that is lost while it migrates fails the migration, not the process', async (t) => {
  const database = await createTestDatabase(t)
  const { untilOneIsCutOff } = await stallMigrations(database)
  const migrating = assert.rejects(
    migrate({ url: database.url, log: listening().log }),
    /connection|terminat/i,
  )
  await untilOneIsCutOff()
  await migrating
})

test('a user who may not create roles migrates and works with a warning', async (t) => {
  const { url } = await startTestPostgres(t)
  await query(url, "create role shop login password 'secret'")
  await query(url, 'create database shop owner shop')
  const own = asUser(withDatabase(url, 'shop'), 'shop')
  const { log, warnings } = listening()
  const { applied, serviceRole } = await migrate({ url: own, log })
  assert.ok(applied.length > 0)
  assert.equal(serviceRole, undefined)
  assert.deepEqual(
    warnings.map(({ fields }) => fields.missing),
    [['mail_service', 'mail_enqueue', 'mail_operator', 'mail_reader']],
  )
  assert.match(warnings[0]?.text ?? '', /create role mail_owner nologin; create role mail_service nologin;/)
  await sendsMail(t, own)

  // What the warning asks of an administrator, as it stands there.
  const advice = /create role .*;/.exec(warnings[0]?.text ?? '')?.[0] ?? ''
  await query(url, advice)
  const second = listening()
  await migrate({ url: own, log: second.log })
  assert.deepEqual(second.warnings, [])
  const [rights] = await query(
    own,
    "select has_any_column_privilege('mail_enqueue', 'mail.outbox', 'insert') as may_append",
  )
  assert.deepEqual(rights, { may_append: true })
  await sendsMail(t, own)
})

test('a user who may create roles but is no superuser leaves everything to mail_owner', async (t) => {
  const { url } = await startTestPostgres(t)
  await query(url, "create role shop login createrole password 'secret'")
  await query(url, 'create database shop owner shop')
  const own = asUser(withDatabase(url, 'shop'), 'shop')
  const { log, warnings } = listening()
  const { serviceRole } = await migrate({ url: own, log })
  assert.deepEqual([serviceRole, warnings], ['mail_service', []])
  const owners = await query(
    own,
    "select distinct pg_get_userbyid(relowner) as owner from pg_class where relnamespace = 'mail'::regnamespace",
  )
  assert.deepEqual(owners, [{ owner: 'mail_owner' }])
  assert.deepEqual((await migrate({ url: own, log })).applied, [])
  await sendsMail(t, own)
})

test('a user who is only a member of mail_service can run the service, and is told when it is outdated', async (t) => {
  const { url } = await startTestPostgres(t)
  await query(url, 'create database shop')
  const admin = withDatabase(url, 'shop')
  await migrate({ url: admin, log: listening().log })
  await query(url, "create role runner login password 'secret' in role mail_service")
  const runner = asUser(admin, 'runner')
  const { applied, serviceRole } = await migrate({ url: runner, log: listening().log })
  assert.deepEqual([applied, serviceRole], [[], 'mail_service'])
  await sendsMail(t, runner)

  const [newest] = await query<{ name: string }>(
    admin,
    'delete from mail.migration where version = (select max(version) from mail.migration) returning name',
  )
  await assert.rejects(migrate({ url: runner, log: listening().log }), (error) => {
    assert.ok(error instanceof SchemaError)
    assert.equal(error.code, 'not_migrated')
    assert.ok(error.message.includes(`lacks ${newest?.name} `), error.message)
    assert.match(error.message, /npm start -- migrate/)
    return true
  })
})

test('the states of a message are the same in SQL and in the code', async (t) => {
  const database = await createTestDatabase(t)
  const [row] = await database.query<{ definition: string }>(
    "select pg_get_constraintdef(oid) as definition from pg_constraint where conname = 'status_is_known' and conrelid = 'mail.message'::regclass",
  )
  const states = [...(row?.definition ?? '').matchAll(/'([a-z]+)'::text/g)].map(([, state]) => state)
  assert.deepEqual(states, [...MESSAGE_STATES])
})

test('every table and view says what it is, and every check has a name that does', async (t) => {
  const database = await createTestDatabase(t)
  const silent = await database.query(
    `select c.relname from pg_class c
     where c.relnamespace = 'mail'::regnamespace and c.relkind in ('r', 'p', 'v') and not c.relispartition
       and obj_description(c.oid, 'pg_class') is null`,
  )
  assert.deepEqual(silent, [])
  const unnamed = await database.query(
    `select c.conrelid::regclass::text, c.conname from pg_constraint c
     where c.connamespace = 'mail'::regnamespace and c.contype = 'c' and c.conname !~ '_(is|has|are|name|names|belongs|opens|closes)_'`,
  )
  assert.deepEqual(unnamed, [])
  const functions = await database.query(
    `select p.oid::regprocedure::text from pg_proc p
     where p.pronamespace = 'mail'::regnamespace and p.prorettype <> 'trigger'::regtype
       and p.proname not in ('ensure_queue') and obj_description(p.oid, 'pg_proc') is null`,
  )
  assert.deepEqual(functions, [])
})

test('mail.uuid7 makes ids of version 7 that grow with time and begin with its milliseconds', async (t) => {
  const database = await createTestDatabase(t)
  const rows = await database.query<{ id: string; at_ms: string; ceiling: string }>(
    `select mail.uuid7() as id, floor(extract(epoch from clock_timestamp()) * 1000)::bigint as at_ms,
       mail.uuid7_floor(clock_timestamp() + interval '1 minute')::text as ceiling
     from generate_series(1, 2000)`,
  )
  const moments: number[] = []
  for (const { id, at_ms: atMs, ceiling } of rows) {
    assert.match(id, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
    const ms = Number.parseInt(id.replaceAll('-', '').slice(0, 12), 16)
    // Made between the row before and the reading of the clock after it.
    assert.ok(ms <= Number(atMs) && ms >= (moments.at(-1) ?? 0), `${ms} is not a moment before ${atMs}`)
    assert.ok(id < ceiling)
    moments.push(ms)
  }
  assert.equal(new Set(rows.map(({ id }) => id)).size, rows.length)
})

test('a lost intake is reported with a range that holds what was lost', async (t) => {
  const database = await createTestDatabase(t)
  const watch = () =>
    database.query<{ at_least: string; at_most: string }>('select at_least, at_most from mail.watch_intake()')
  const append = async (count: number, key: string | null = null) => {
    await database.query(
      'insert into mail.intake (message, idempotency_key) select $1, $2 from generate_series(1, $3::integer)',
      [JSON.stringify(orderMail()), key, count],
    )
  }
  const move = (count: number) =>
    database.query(
      `with gone as (
         delete from mail.intake where ctid in (select ctid from mail.intake order by seq limit $1) returning *
       )
       insert into mail.message (id, seq, accepted_at, priority, status, stream, source)
       select id, seq, received_at, 3, 'accepted', 'transactional', source from gone`,
      [count],
    )
  const crash = () => database.query('truncate mail.intake, mail.intake_canary')

  // Seen waiting at the very first look and moved before the crash: nothing was lost.
  await append(5)
  assert.deepEqual(await watch(), [])
  await move(5)
  await crash()
  assert.deepEqual(await watch(), [{ at_least: '0', at_most: '0' }])

  // Three that were seen waiting, two that came after the last look.
  await append(7)
  assert.deepEqual(await watch(), [])
  await move(4)
  await append(2)
  await crash()
  assert.deepEqual(await watch(), [{ at_least: '3', at_most: '5' }])

  // A keyed one may have been a repeat: it counts only towards the most.
  await append(1, 'keyed')
  assert.deepEqual(await watch(), [])
  await crash()
  assert.deepEqual(await watch(), [{ at_least: '0', at_most: '1' }])

  // Reported once each, and quiet afterwards.
  for (let look = 0; look < 3; look += 1) assert.deepEqual(await watch(), [])
  assert.equal((await database.query('select 1 from mail.intake_loss')).length, 3)
})

async function sendsMail(t: TestContext, url: string): Promise<void> {
  const sink = await startSmtpSink(t)
  const stops: (() => Promise<unknown>)[] = []
  const service = await startTestService(
    {
      url,
      query: (statement, values) => query(url, statement, values),
      beforeDrop: (stop) => stops.push(stop),
    },
    { SMTP_URL: sink.url },
  )
  try {
    assert.equal((await service.request('/emails', { body: orderMail() })).status, 200)
    await eventually('the mail', async () => sink.mails.length === 1)
  } finally {
    for (const stop of stops) await stop()
  }
}

async function runMain(t: TestContext, url: string, args: string[]) {
  const child = spawn(
    process.execPath,
    [fileURLToPath(new URL('../../src/main.js', import.meta.url)), ...args],
    {
      env: { PATH: process.env.PATH, DATABASE_URL: url, PORT: '0', LOG_LEVEL: 'silent' },
      stdio: ['ignore', 'ignore', 'pipe'],
    },
  )
  t.after(() => child.kill('SIGKILL'))
  const [errors, [code]] = await Promise.all([text(child.stderr), once(child, 'exit')])
  return { code, errors }
}
