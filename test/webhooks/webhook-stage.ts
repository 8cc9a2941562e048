import { openPool } from '../../src/db/pool.ts'
import { createLog } from '../../src/log.ts'
import { Bells } from '../../src/queue/bells.ts'
import { startBoss } from '../../src/queue/boss.ts'
import { type FanOutDeps, fanOut } from '../../src/webhooks/fan-out.ts'
import type { TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'

/** The fan-out of one process, without a service around it. */
export async function openStage(
  database: TestDatabase,
): Promise<FanOutDeps & { fanOutAll(count: number): Promise<void> }> {
  const log = createLog('silent')
  const { db, pool, close } = openPool({ url: database.url, maxConnections: 4, role: undefined, log })
  const boss = await startBoss(pool, log)
  const bells = new Bells(pool, log)
  database.beforeDrop(async () => {
    bells.stop()
    await boss.stop({ graceful: false })
    await close()
  })
  const deps = { db, boss, bells, log }
  return { ...deps, fanOutAll: (count) => fanOutAll(deps, database, count) }
}

/** Rounds until so many deliveries are there: other tests' open transactions hold the feed back for a moment. */
function fanOutAll(deps: FanOutDeps, database: TestDatabase, count: number): Promise<void> {
  return eventually(`${count} deliveries`, async () => {
    await fanOut(deps)
    const rows = await database.query('select 1 from mail.webhook_delivery')
    return rows.length >= count || undefined
  }).then(() => undefined)
}

/** As SQL users make one. */
export async function makeEndpoint(
  { query }: Pick<TestDatabase, 'query'>,
  url: string,
  events: readonly string[] | null = null,
): Promise<{ id: string; secret: string }> {
  const [row] = await query<{ id: string; secret: string }>(
    'select id, signing_secret as secret from mail.webhook_create($1, $2)',
    [url, events],
  )
  if (row === undefined) throw new Error('no endpoint was made')
  return row
}

/** Messages with one event each, in one transaction. */
export async function addEvents(
  { query }: Pick<TestDatabase, 'query'>,
  count: number,
  type = 'sent',
): Promise<string[]> {
  const rows = await query<{ id: string }>(
    `with message as (
       insert into mail.message (id, seq, accepted_at, priority, status, stream, provider, source)
       select mail.uuid7(), nextval('mail.message_seq'), now(), 3, 'sent', 'transactional', 'default', 'test'
       from generate_series(1, $1::integer)
       returning id
     ), content as (
       insert into mail.message_content (id, message) select id, $2::json from message
     )
     insert into mail.event (message_id, type) select id, $3 from message returning message_id as id`,
    [
      count,
      JSON.stringify({
        from: { address: 'shop@example.com' },
        to: [{ address: 'ann@example.net' }],
        subject: 'Hi',
      }),
      type,
    ],
  )
  return rows.map(({ id }) => id)
}
