/** What a scrape asks of Postgres costs the same with ten messages waiting and with a hundred thousand. */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { test } from 'node:test'
import type { RawBuilder } from 'kysely'
import { type Database, openPool } from '../../src/db/pool.ts'
import { createLog } from '../../src/log.ts'
import { POSTGRES_STATE, readOne, SIZES, SYSTEM_STATE } from '../../src/metrics/queries.ts'
import { countDepth, estimateDepth, takeSample } from '../../src/upkeep/measures-queries.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'

const MANY = 100_000
/** Planner statistics change meanwhile, and with them a few pages of the catalog. */
const TOLERANCE = 1.5
const SLACK_BUFFERS = 200
const WEBHOOK_QUEUE = `webhook.${randomUUID()}`

/** Pages of Postgres that a statement touched, in memory or on disk: what it costs, on a machine of any speed. */
async function buffersOf(
  db: Database,
  database: TestDatabase,
  statement: RawBuilder<unknown>,
): Promise<number> {
  const { sql, parameters } = statement.compile(db)
  await database.query(sql, [...parameters])
  const rows = await database.query<{ 'QUERY PLAN': [{ Plan: Record<string, number> }] }>(
    `explain (analyze, buffers, format json) ${sql}`,
    [...parameters],
  )
  const plan = rows[0]?.['QUERY PLAN'][0].Plan ?? assert.fail('there is no plan')
  return (plan['Shared Hit Blocks'] ?? 0) + (plan['Shared Read Blocks'] ?? 0)
}

/** Mail that waits: at the door, for processing, for dispatch. */
async function addWaiting(database: TestDatabase, count: number): Promise<void> {
  await database.query(
    `insert into pgboss.job (name, id, priority, data)
     select q.name, gen_random_uuid(), 4, '{"ids":["a"]}'::jsonb
     from unnest(array['dispatch.default.transactional', 'process.marketing']) as q (name), generate_series(1, $1::integer)`,
    [count],
  )
  await database.query(
    `insert into mail.outbox (message, source) select '{}'::json, 'test' from generate_series(1, $1::integer)`,
    [count],
  )
  await database.query('analyze')
}

/** What is counted one by one, up to a limit. */
async function addCounted(database: TestDatabase, count: number): Promise<void> {
  await database.query(
    `insert into pgboss.job_common (name, id, state, data, policy)
     select $2, gen_random_uuid(), 'created', '{}', 'standard' from generate_series(1, $1::integer)`,
    [count, WEBHOOK_QUEUE],
  )
  await database.query(
    `insert into mail.dead_letter (message_id, stage, code, reason, stream, source)
     select mail.uuid7(), 'dispatch', 'refused', 'no', 'transactional', 'app' from generate_series(1, $1::integer)`,
    [count],
  )
  await database.query('analyze')
}

async function measure(db: Database): Promise<void> {
  await countDepth(db)
  await estimateDepth(db)
  await takeSample(db)
}

function assertFlat(few: number, many: number, what: string): void {
  assert.ok(many <= few * TOLERANCE + SLACK_BUFFERS, `${what}: ${few} pages, and ${many} with many`)
}

function open(database: TestDatabase): Database {
  const log = createLog('silent')
  const { db, close } = openPool({ url: database.url, maxConnections: 2, role: undefined, log })
  database.beforeDrop(close)
  return db
}

test('a scrape reads as many pages with 100,000 waiting in each place as with 10', async (t) => {
  const database = await createTestDatabase(t)
  const db = open(database)
  const statements = { SYSTEM_STATE, POSTGRES_STATE, SIZES }
  const costs = async () => {
    const seen = new Map<string, number>()
    for (const [name, statement] of Object.entries(statements))
      seen.set(name, await buffersOf(db, database, statement))
    return seen
  }
  await addWaiting(database, 10)
  await measure(db)
  const few = await costs()
  await addWaiting(database, MANY)
  await measure(db)
  const [depth] = await database.query<{ ready: string }>(
    "select ready from mail.depth where stage = 'dispatch'",
  )
  assert.equal(depth?.ready, String(MANY + 10))
  const many = await costs()
  for (const name of Object.keys(statements)) assertFlat(few.get(name) ?? 0, many.get(name) ?? 0, name)
})

test('what is counted one by one is counted up to a limit', async (t) => {
  const database = await createTestDatabase(t)
  const db = open(database)
  await database.query(`select mail.ensure_queue($1, '{"policy":"standard"}')`, [WEBHOOK_QUEUE])
  await addCounted(database, 12_000)
  const some = await buffersOf(db, database, SYSTEM_STATE)
  await addCounted(database, MANY)
  assertFlat(some, await buffersOf(db, database, SYSTEM_STATE), 'SYSTEM_STATE')
  const state = await readOne(db, SYSTEM_STATE)
  assert.equal(state.webhooks.waiting, 10_000)
  assert.ok(state.dead_letters > 10_000)
})
