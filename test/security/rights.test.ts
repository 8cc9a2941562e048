/** Who may do what in the database: the catalog compared with docs/rights.md, and what no role may have. */
import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { before, describe, test } from 'node:test'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { logInAs } from '../support/login.ts'
import { orderMail } from '../support/service.ts'
import { asLine, readRights } from './rights.ts'

const DENIED = { code: '42501' }
const MAIL = JSON.stringify(orderMail())
const SEARCH_PATH = 'search_path=pg_catalog, mail, pg_temp'

let database: TestDatabase

before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
})

test('every object has the rights that docs/rights.md says, and no object is without a line there', async () => {
  const document = await readFile(new URL('../../docs/rights.md', import.meta.url), 'utf8')
  const written: readonly string[] =
    document.match(/^\| (?:table|view|sequence|definer|function) `.*$/gm) ?? []
  const found = (await readRights(database)).map(asLine)
  const missing = found.filter((line) => !written.includes(line))
  const obsolete = written.filter((line) => !found.includes(line))
  // Each line is a decision: write down what is meant to be, and change mail.apply_grants if it is something else.
  assert.deepEqual({ missing, obsolete }, { missing: [], obsolete: [] })
  assert.equal(written.length, new Set(written).size)
})

test('all of it belongs to mail_owner, who cannot log in, and nobody else may make anything', async () => {
  const others = await database.query(
    `select oid::regclass::text from pg_class
     where relnamespace in ('mail'::regnamespace, 'pgboss'::regnamespace) and relowner <> 'mail_owner'::regrole
     union all
     select oid::regprocedure::text from pg_proc
     where pronamespace in ('mail'::regnamespace, 'pgboss'::regnamespace) and proowner <> 'mail_owner'::regrole
     union all
     select oid::regnamespace::text from pg_namespace
     where nspname in ('mail', 'pgboss') and nspowner <> 'mail_owner'::regrole`,
  )
  assert.deepEqual(others, [])
  const able = await database.query(
    `select rolname from pg_roles
     where rolname like 'mail\\_%' and (rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls or rolcanlogin)
     union all
     select r.rolname from pg_roles r, unnest(array['mail', 'pgboss']) s (name)
     where r.rolname in ('mail_service', 'mail_operator', 'mail_reader', 'mail_enqueue') and has_schema_privilege(r.oid, s.name, 'create')
     union all
     select r.rolname from pg_roles r where r.rolname like 'mail\\_%' and pg_has_role(r.oid, 'mail_owner', 'member') and r.rolname <> 'mail_owner'`,
  )
  assert.deepEqual(able, [])
})

test('a function that is made later is nobody’s until somebody grants it', async () => {
  const client = await logInAs(database, 'mail_owner')
  await client.query('set role mail_owner')
  await client.query('create function mail.made_later() returns integer language sql as $$ select 1 $$')
  const open = await database.query(
    `select role from unnest(array['public', 'mail_enqueue', 'mail_reader', 'mail_operator', 'mail_service']) role
     where has_function_privilege(role, 'mail.made_later()', 'execute')`,
  )
  await client.query('drop function mail.made_later()')
  assert.deepEqual(open, [])
})

/** Each function that puts SQL together, and why no caller's words get into it but as a name or a value. */
const BUILT_SQL: Readonly<Record<string, string>> = {
  'mail.apply_grants()': 'names of roles from a list in it, as identifiers',
  'mail.delete_messages(uuid[],uuid,uuid)': 'tables from a list in it, as identifiers',
  'mail.drop_partition(text,date)': 'names as identifiers; not a door, so it drops what its caller owns',
  'mail.ensure_partitions(integer)': 'tables from a list in it and days, as identifiers; bounds as literals',
  'mail.erase_at_the_doors(text)': 'the two doors from a list in it; the address is a parameter',
  'mail.retain_step(mail.retention_step,integer)':
    'mail.retain gives it steps of mail.retention_due alone, whose SQL is constant: streams and times are parameters',
  'mail.retention_plan()': 'the same steps; it counts',
}

describe('a function that runs with its owner’s rights', () => {
  test('looks for names in these schemas alone, in this order, and sets nothing else but limits and plans', async () => {
    const functions = await database.query<{ name: string; config: string[] | null; language: string }>(
      `select p.oid::regprocedure::text as name, p.proconfig as config, l.lanname as language
       from pg_proc p join pg_language l on l.oid = p.prolang where p.prosecdef and p.pronamespace in ('mail'::regnamespace, 'pgboss'::regnamespace)`,
    )
    assert.ok(functions.length > 30)
    for (const { name, config, language } of functions) {
      const [path, ...others] = (config ?? []).toSorted((a, b) =>
        a === SEARCH_PATH ? -1 : b === SEARCH_PATH ? 1 : 0,
      )
      assert.equal(path, SEARCH_PATH, name)
      assert.ok(
        others.every((each) => /^(?:plan_cache_mode|enable_\w+|\w+_timeout)=/.test(each)),
        `${name}: ${others}`,
      )
      assert.match(language, /^(sql|plpgsql)$/, name)
    }
  })

  test('or is called by one, puts SQL together only where somebody has looked at it', async () => {
    const functions = await database.query<{ name: string; source: string }>(
      `select p.oid::regprocedure::text as name, regexp_replace(p.prosrc, '--[^\\n]*', '', 'g') as source
       from pg_proc p where p.pronamespace = 'mail'::regnamespace and p.prosrc ~* '\\mexecute\\M'`,
    )
    const building = functions.filter(({ source }) => /\bexecute\s+(?!on\b)/i.test(source))
    assert.deepEqual(new Set(building.map(({ name }) => name)), new Set(Object.keys(BUILT_SQL)))
    for (const { name, source } of building) {
      const statements = [...source.matchAll(/\bexecute\s+(?!on\b)(\S+)/gi)].map(([, first = '']) => first)
      assert.ok(
        statements.every((first) => first.startsWith('format(')),
        `${name}: ${statements}`,
      )
      if (!name.startsWith('mail.ret')) assert.doesNotMatch(source, /%s(?! )/, name)
    }
  })

  test('is not misled by what its caller puts in the way', async () => {
    const app = await logInAs(database, 'mail_enqueue')
    await app.query(`
      create temp table outbox (id uuid, message json, stream text, priority smallint, idempotency_key text, source text);
      create temp table attachment (sha256 bytea, given_at timestamptz);
      create temp table attachment_given (sha256 bytea, given_at timestamptz default now(), content bytea);
      create temp table idempotency (scope text, key text, message_ids uuid[], fingerprint bytea, expires_at timestamptz);
      create function pg_temp.fingerprint(text) returns bytea language plpgsql as $$ begin raise 'misled'; end $$;
      create function pg_temp.jsonb_typeof(jsonb) returns text language plpgsql as $$ begin raise 'misled'; end $$;
      create function pg_temp.never(text, text) returns boolean language plpgsql as $$ begin raise 'misled'; end $$;
      create operator pg_temp.= (leftarg = text, rightarg = text, function = pg_temp.never);
      create operator pg_temp.<> (leftarg = text, rightarg = text, function = pg_temp.never);
      set search_path = pg_temp, mail, pg_catalog`)
    const sent = await app.query<{ id: string }>('select mail.send($1::jsonb, $2) as id', [MAIL, 'shadowed'])
    await app.query("select mail.attach('shadowed')")
    const stored = await database.query('select id from mail.outbox where idempotency_key = $1', ['shadowed'])
    assert.deepEqual(stored, sent.rows)
    assert.deepEqual(
      (await app.query('select from pg_temp.outbox union all select from pg_temp.attachment_given')).rows,
      [],
    )
    assert.equal((await database.query('select from mail.attachment_given')).length, 1)
  })
})

test('no role can become another, or raise itself', async () => {
  for (const role of ['mail_enqueue', 'mail_reader', 'mail_operator', 'mail_service']) {
    const client = await logInAs(database, role)
    for (const other of [
      'mail_owner',
      'mail_service',
      'mail_operator',
      'mail_reader',
      'mail_enqueue',
      'postgres',
    ]) {
      if (other === role) continue
      await assert.rejects(
        client.query(`set role ${other}`),
        /permission denied|does not exist/,
        `${role} as ${other}`,
      )
    }
    for (const statement of [
      'set session authorization mail_owner',
      'set session_replication_role = replica',
      `alter role ${role} superuser`,
      'create role mail_evil login',
      'create schema evil',
      'create extension dblink',
      "copy (select 1) to program 'id'",
      "select pg_read_file('/etc/passwd')",
      "select lo_export(1, '/tmp/x')",
      'alter function mail.uuid7() security definer',
      'create or replace function mail.uuid7() returns uuid language sql as $$ select null::uuid $$',
      'create trigger evil before insert on mail.outbox for each row execute function mail.replan_domains()',
      'create rule evil as on insert to mail.outbox do nothing',
      "comment on table mail.outbox is 'mine'",
    ]) {
      await assert.rejects(client.query(statement), (error: { code?: string }) => {
        assert.match(error.code ?? '', /^(42501|0A000|58P01)$/, `${role}: ${statement}: ${error.code}`)
        return true
      })
    }
  }
})

test('no lock that stops the service is an app’s or a reader’s to take', async () => {
  const tables = await database.query<{ name: string }>(
    "select oid::regclass::text as name from pg_class where relnamespace = 'mail'::regnamespace and relkind in ('r', 'p')",
  )
  for (const role of ['mail_enqueue', 'mail_reader']) {
    const client = await logInAs(database, role)
    for (const { name } of tables) {
      for (const mode of ['share', 'exclusive', 'access exclusive']) {
        await assert.rejects(
          client.query(`begin; lock table ${name} in ${mode} mode nowait`),
          DENIED,
          `${role}: ${name}`,
        )
        await client.query('rollback')
      }
      await assert.rejects(client.query(`select from ${name} for key share`), DENIED, `${role}: ${name}`)
    }
  }
})
