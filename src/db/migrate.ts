import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import type { Client } from 'pg'
import { reached } from '../crash-point.ts'
import { installBoss } from '../queue/boss.ts'
import { queuesFor } from '../queue/queues.ts'
import { takeTurn } from './migrate-turn.ts'
import { openClient } from './one-client.ts'
import { refuseTransactionPooler } from './pooler.ts'
import { actAsOwner, missingRolesAdvice } from './roles.ts'
import { SchemaError } from './schema-error.ts'
import { SQLSTATE, sqlState } from './sqlstate.ts'

/**
 * Brings a database to this version: the roles, pg-boss's schema, our migrations in order, the queues,
 * the grants. Two processes may do it at once: one works, the other waits and finds it done. It can die
 * at any point and be run again: each migration is one transaction, the rest is safe to repeat.
 */

const MIGRATIONS = new URL('../../migrations/', import.meta.url)
/** As long as anybody waits behind a migration that waits for a lock. */
const LOCK_WAIT_MS = 500
const LOCK_PAUSE_MS = 1_000
const GIVE_WAY = new Set<string>([SQLSTATE.lockNotAvailable, SQLSTATE.deadlockDetected])
/** Some five minutes. */
const LOCK_ATTEMPTS = 200

export type Migration = { readonly version: number; readonly name: string; readonly file: URL }

type MigrateLog = { info(fields: object, text: string): void; warn(fields: object, text: string): void }

export type MigrateOptions = {
  readonly url: string
  readonly log: MigrateLog
  /** Of the migrations; ends with a slash. Unset: those of this version. */
  readonly directory?: URL
  /** How long a start that has nothing to migrate waits for whoever migrates. Unset: ten seconds. */
  readonly patienceMs?: number
}

export type Migrated = {
  readonly applied: readonly string[]
  /** The role the service should work as, or undefined when the user of the URL cannot take it. */
  readonly serviceRole: string | undefined
}

export async function migrate(options: MigrateOptions): Promise<Migrated> {
  const { url } = options
  const client = await openClient(url, { application_name: 'sluice migrate' })
  try {
    await refuseOldPostgres(client)
    // The lock below would stay behind in a connection that others use.
    await refuseTransactionPooler(client, options.url)
    const hasTurn = await takeTurn(client, {
      log: options.log,
      isUpToDate: () => isUpToDate(client, options.directory),
      patienceMs: options.patienceMs,
    })
    return await migrateInTurn(client, options, hasTurn)
  } finally {
    await client.end()
  }
}

async function isUpToDate(client: Client, directory: URL | undefined): Promise<boolean> {
  const [known, applied] = [await readMigrations(directory), await appliedVersions(client)]
  return known.every(({ version }) => applied.has(version))
}

/** Without the turn nothing is changed: what every run does has been done by somebody else, or is being done. */
async function migrateInTurn(
  client: Client,
  { log, directory }: MigrateOptions,
  hasTurn: boolean,
): Promise<Migrated> {
  const known = await readMigrations(directory)
  const applied = await appliedVersions(client)
  refuseNewerDatabase(known, applied)
  const pending = known.filter((migration) => !applied.has(migration.version))

  // A user of a pooler may have mail_service for its role from the start: `reset role` would come back to that.
  await client.query('set role none')
  const owner = await actAsOwner(client, log)
  if (!owner.canChangeSchema && pending.length > 0) {
    throw new SchemaError(
      'not_migrated',
      `the database lacks ${pending.map((each) => each.name).join(', ')} and this user may not change it: run "npm start -- migrate" as the owner of schema mail`,
    )
  }
  if (owner.canChangeSchema && hasTurn) {
    await makeSchema(client)
    await installBoss((text, values) => client.query(text, values))
    for (const migration of pending) await apply(client, migration, log)
    if (pending.length > 0) reached('migrate.before-grants')
    await settleRights(client, log)
  }
  await client.query('set role none')
  const { rows } = await client.query<{ member: boolean }>(
    "select coalesce(pg_has_role(to_regrole('mail_service')::oid, 'member'), false) as member",
  )
  if (pending.length > 0) log.info({ migrations: pending.map((each) => each.name) }, 'database migrated')
  return {
    applied: pending.map((each) => each.name),
    serviceRole: rows[0]?.member === true ? 'mail_service' : undefined,
  }
}

/** Only when missing: even `if not exists` asks for the right to create schemas in this database. */
async function makeSchema(client: Client): Promise<void> {
  const { rows } = await client.query("select to_regnamespace('mail') is null as missing")
  if (rows[0]?.missing === true) await client.query('create schema mail')
  await client.query(`
    create table if not exists mail.migration (
      version integer primary key,
      name text not null,
      digest text not null default '',
      applied_at timestamptz not null default now()
    )`)
  await client.query(
    "comment on table mail.migration is 'Migrations this database has had: the files of migrations/, by number.'",
  )
  await client.query(
    "comment on column mail.migration.digest is 'SHA-256 of the file as it was run, in hexadecimal.'",
  )
}

/** What is done at every run: partitions ahead, queues of every stream and provider, grants. */
async function settleRights(client: Client, log: MigrateLog): Promise<void> {
  await client.query('select mail.ensure_partitions()')
  const { rows: streams } = await client.query<{ name: string }>('select name from mail.stream')
  const { rows: providers } = await client.query<{ name: string }>('select name from mail.provider')
  const queues = queuesFor(
    streams.map((stream) => stream.name),
    ['default', ...providers.map((provider) => provider.name)],
  )
  await client.query(
    `select mail.ensure_queue(name, options)
     from (select distinct on (name) * from json_to_recordset($1) as wanted (name text, options jsonb)) wanted
     where not exists (select from pgboss.queue q where q.name = wanted.name)`,
    [JSON.stringify(queues)],
  )
  const { rows } = await client.query<{ missing: string[] }>('select mail.apply_grants() as missing')
  const missing = rows[0]?.missing ?? []
  if (missing.length > 0) log.warn({ missing }, missingRolesAdvice(missing))
}

/**
 * While a migration waits for a lock, everybody who comes after it waits as well. So it waits briefly, gives up all it holds,
 * and comes again: under load mail goes on, and a transaction that stays open for long delays the migration alone.
 */
async function apply(client: Client, migration: Migration, log: MigrateLog): Promise<void> {
  const text = await readFile(migration.file, 'utf8')
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await applyOnce(client, migration, text)
    } catch (error) {
      const isInTheWay = GIVE_WAY.has(sqlState(error) ?? '')
      if (!isInTheWay || attempt === LOCK_ATTEMPTS) {
        const outcome = isInTheWay ? `found no moment for its locks in ${attempt} attempts` : 'failed'
        throw new Error(`migration ${migration.name} ${outcome} and was rolled back`, { cause: error })
      }
      log.warn(
        { migration: migration.name, attempt },
        'a migration waits for its locks, and gives way meanwhile',
      )
      await delay(LOCK_PAUSE_MS)
    }
  }
}

async function applyOnce(client: Client, { version, name }: Migration, text: string): Promise<void> {
  const digest = createHash('sha256').update(text).digest('hex')
  await client.query('begin')
  try {
    await client.query("select set_config('lock_timeout', $1, true)", [`${LOCK_WAIT_MS}ms`])
    // First, so that a second migrator that slipped past the lock conflicts here and not in the middle.
    await client.query('insert into mail.migration (version, name, digest) values ($1, $2, $3)', [
      version,
      name,
      digest,
    ])
    await client.query(text)
    reached('migrate.before-commit')
    await client.query('commit')
    reached('migrate.committed')
  } catch (error) {
    // A lost connection has rolled back by itself, and is what the error tells of.
    await client.query('rollback').catch(() => undefined)
    throw error
  }
}

/** The migrations of this version, in their order. */
export async function readMigrations(directory = MIGRATIONS): Promise<Migration[]> {
  const files = (await readdir(directory)).filter((file) => /^\d{4}_.+\.sql$/.test(file)).sort()
  return files.map((file) => ({
    version: Number(file.slice(0, 4)),
    name: file,
    file: new URL(file, directory),
  }))
}

async function appliedVersions(client: Client): Promise<Map<number, string>> {
  const { rows: found } = await client.query("select to_regclass('mail.migration') is not null as found")
  if (found[0]?.found !== true) return new Map()
  const { rows } = await client.query<{ version: number; name: string }>(
    'select version, name from mail.migration',
  )
  return new Map(rows.map((row) => [row.version, row.name]))
}

function refuseNewerDatabase(known: readonly Migration[], applied: ReadonlyMap<number, string>): void {
  const newest = Math.max(0, ...known.map((migration) => migration.version))
  const unknown = [...applied].filter(([version]) => version > newest).map(([, name]) => name)
  if (unknown.length === 0) return
  throw new SchemaError(
    'database_newer',
    `the database is newer than this service: it has ${unknown.join(', ')}. Start the version of Sluice that made it, or a later one; nothing was changed`,
  )
}

async function refuseOldPostgres(client: Client): Promise<void> {
  const { rows } = await client.query<{ version: string }>('show server_version_num')
  const version = Number((rows[0] as { server_version_num?: string } | undefined)?.server_version_num)
  if (version >= 150_000) return
  throw new SchemaError(
    'postgres_too_old',
    `this is PostgreSQL ${Math.floor(version / 10_000)}; Sluice needs 15 or newer`,
  )
}
