import { sql } from 'kysely'
import type { Pool } from 'pg'
import { type Db, fromKysely, PgBoss } from 'pg-boss'
import type { Database } from '../db/pool.ts'
import type { Transaction } from '../db/transaction.ts'
import type { Log } from '../log.ts'
import { queuesFor, WEBHOOK_QUEUE_OPTIONS } from './queues.ts'

export type { PgBoss as Boss } from 'pg-boss'

export const BOSS_SCHEMA = 'pgboss'

/** What the migrate step runs to install or upgrade pg-boss's own schema, over one connection. */
export async function installBoss(executeSql: Db['executeSql']): Promise<void> {
  const boss = new PgBoss({
    db: { executeSql },
    schema: BOSS_SCHEMA,
    migrate: true,
    supervise: false,
    schedule: false,
  })
  await boss.start()
  await boss.stop({ graceful: false, close: false })
}

/**
 * pg-boss over our pool: no pool, timers or supervisor of its own (queues.ts says why none is needed).
 * Refuses to start on a schema it does not know.
 */
export async function startBoss(pool: Pool, log: Log): Promise<PgBoss> {
  const boss = new PgBoss({
    db: { executeSql: (text, values) => pool.query(text, values) },
    schema: BOSS_SCHEMA,
    migrate: false,
    createSchema: false,
    supervise: false,
    schedule: false,
  })
  // Once a minute it reads the list of queues anew, and says by an event that it could not. Without a listener that would
  // end the process, whenever Postgres happens to be away just then. It goes on with the list it has.
  boss.on('error', (error) => log.debug({ error }, 'pg-boss could not read its list of queues'))
  await boss.start()
  return boss
}

/** The option that makes a pg-boss call part of our transaction. */
export function within(trx: Transaction): { db: Db } {
  return { db: fromKysely(trx) }
}

/** Makes the queues of all streams and providers that lack one. Safe to repeat. */
export async function ensureQueues(db: Database): Promise<void> {
  const streams = await db.selectFrom('mail.stream').select('name').execute()
  const providers = await db.selectFrom('mail.provider').select('name').execute()
  const wanted = queuesFor(
    streams.map((stream) => stream.name),
    providers.map((provider) => provider.name),
  )
  await sql`/* queue.ensure */
    select mail.ensure_queue(name, options)
    from json_to_recordset(${JSON.stringify(wanted)}::json) as wanted (name text, options jsonb)
    where not exists (select from pgboss.queue q where q.name = wanted.name)
  `.execute(db)
}

/** Makes the queues of webhook endpoints that lack one. Safe to repeat. */
export async function ensureWebhookQueues(db: Database): Promise<void> {
  await sql`/* queue.ensure_webhooks */
    select mail.ensure_queue('webhook.' || e.id, ${JSON.stringify(WEBHOOK_QUEUE_OPTIONS)}::jsonb)
    from mail.webhook_endpoint e
    where not exists (select from pgboss.queue q where q.name = 'webhook.' || e.id)
  `.execute(db)
}
