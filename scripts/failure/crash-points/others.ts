import type { CrashPoint } from '../../../src/crash-point.ts'
import { STANDARD_SECRET, standardCall } from '../../../test/feedback/proofs.ts'
import { eventually } from '../../../test/support/eventually.ts'
import { insertMessages } from '../../../test/support/feedback.ts'
import { orderMail } from '../../../test/support/service.ts'
import { migrateUntil, type Stage } from './stage.ts'

const LIMIT_MS = 60_000

/** A provider tells of a delivery; whoever heard no answer tells it again, as providers do. */
export async function feedback(stage: Stage, point: CrashPoint): Promise<string> {
  const { database } = stage
  const environment = { MTA_WEBHOOK_SECRET: STANDARD_SECRET }
  await database.query(
    "insert into mail.webhook_source (name, kind, secrets_env) values ('mta', 'generic', 'MTA_WEBHOOK_SECRET')",
  )
  const [id = ''] = await insertMessages(database, [{ to: [stage.recipient] }])
  const body = JSON.stringify({ events: [{ type: 'delivered', sluice_id: id, recipient: stage.recipient }] })
  const tell = async (url: string) => {
    const call = standardCall(body, Date.now())
    const answer = await fetch(new URL('/webhooks/generic/mta', url), {
      method: 'POST',
      headers: call.headers,
      body: new Uint8Array(call.body),
    })
    return answer.status
  }
  const doomed = await stage.spawnDoomed(point, environment)
  const first = await tell(doomed?.url ?? '').catch(() => undefined)
  await doomed?.ended
  const survivor = await stage.startSurvivor(environment)
  const again = first === undefined ? await tell(survivor.url ?? '') : undefined
  await eventually('it is applied', async () => {
    const [row] = await database.query<{ state: string }>('select state from mail.feedback')
    return row?.state === 'applied'
  })
  const [seen] = await database.query<{ deliveries: number; status: string; events: string }>(
    `select (select count(*)::integer from mail.feedback) as deliveries, m.status, (
       select string_agg(e.type, ', ' order by e.at, e.id) from mail.event e where e.message_id = m.id
     ) as events from mail.message m`,
  )
  return [
    first === undefined ? `the connection broke, and the repeat was answered ${again}` : `answered ${first}`,
    `stored ${seen?.deliveries === 1 ? 'once' : `${seen?.deliveries} times`}`,
    `the message is ${seen?.status} (${seen?.events})`,
  ].join('; ')
}

/** An event that an app's endpoint wants to hear of. */
export async function webhook(stage: Stage, point: CrashPoint): Promise<string> {
  const { database, theatre } = stage
  const path = `/${stage.recipient}`
  await database.query('select mail.webhook_create($1, null)', [`${theatre.endpoint.host}${path}`])
  const doomed = await stage.spawnDoomed(point, { SLUICE_ROLES: 'worker' })
  const [id = ''] = await insertMessages(database, [{ to: [stage.recipient] }])
  await database.query("insert into mail.event (message_id, type) values ($1, 'sent')", [id])
  await doomed?.ended
  await stage.startSurvivor({ SLUICE_ROLES: 'worker' })
  await eventually(
    'it is told',
    async () => {
      const rows = await database.query("select from mail.webhook_delivery where state = 'success'")
      return rows.length > 0
    },
    LIMIT_MS,
  )
  const rows = await database.query<{ tries: number }>('select tries from mail.webhook_delivery')
  const told = theatre.endpoint.received.filter((each) => each.path === path)
  return [
    `told ${times(told.length)}`,
    ...(told.length > 1
      ? [`under ${new Set(told.map(({ headers }) => headers['webhook-id'])).size} webhook-id`]
      : []),
    `${rows.length} delivery, counted as ${rows[0]?.tries} ${rows[0]?.tries === 1 ? 'attempt' : 'attempts'}`,
  ].join('; ')
}

/** An alert that fired, and a program that is to be told of it. */
export async function alert(stage: Stage, point: CrashPoint): Promise<string> {
  const { database, theatre } = stage
  const path = `/${stage.recipient}`
  const { query } = database
  const doomed = await stage.spawnDoomed(point, { SLUICE_ROLES: 'api' })
  await query('update mail.alert_rule set enabled = false')
  await query("insert into mail.alert_target (name, kind, url) values ('program', 'generic', $1)", [
    `${theatre.endpoint.host}${path}`,
  ])
  await query(
    `insert into mail.alert_rule (name, kind, threshold, clear_at, for_s, clear_for_s, description, command)
     values ('many', 'dead_letters', 1, 0, 0, 0, 'many', 'select 1;')`,
  )
  await query(
    `insert into mail.dead_letter (message_id, stage, code, reason, stream, source)
     select gen_random_uuid(), 'dispatch', 'refused', 'no', 'transactional', 'x' from generate_series(1, 5)`,
  )
  await doomed?.ended
  // A lead of ten seconds and a lease of a minute, which nobody waits for here.
  await query("update mail.leader set renewed_at = now() - interval '1 hour'")
  await query('update mail.alert_delivery set leased_until = now() where ended_at is null')
  await stage.startSurvivor({ SLUICE_ROLES: 'api' })
  await eventually(
    'the target is told',
    async () => (await query("select from mail.alert_delivery where state = 'sent'")).length > 0,
    LIMIT_MS,
  )
  const told = theatre.endpoint.received.filter((each) => each.path === path)
  const rows = await query('select from mail.alert_delivery')
  return [
    `told ${times(told.length)}`,
    ...(told.length > 1
      ? [`under ${new Set(told.map(({ headers }) => headers['webhook-id'])).size} webhook-id`]
      : []),
    `${rows.length} ${rows.length === 1 ? 'message' : 'messages'} to the target`,
  ].join('; ')
}

/** Two kinds of rows that were kept long enough. */
export async function retention(stage: Stage, point: CrashPoint): Promise<string> {
  const { query } = stage.database
  await query(
    `insert into mail.idempotency (scope, key, fingerprint, message_ids, expires_at)
     select 'send', 'key' || n, '', '{}', now() - interval '1 day' from generate_series(1, 3) n`,
  )
  await query(
    `insert into mail.suppression (address, scope, origin, reason, expires_at)
     values ('old@example.net', '*', 'manual', 'manual', now() - interval '10 years')`,
  )
  const left = async () => {
    const [row] = await query<{ keys: number; addresses: number }>(
      `select (select count(*)::integer from mail.idempotency) as keys,
         (select count(*)::integer from mail.suppression) as addresses`,
    )
    return `${row?.keys} keys and ${row?.addresses} addresses left`
  }
  await (await stage.spawnDoomed(point, { SLUICE_ROLES: 'api' }))?.ended
  const atDeath = await left()
  await query("update mail.leader set renewed_at = now() - interval '1 hour'")
  await stage.startSurvivor({ SLUICE_ROLES: 'api' })
  await eventually(
    'the rest is removed',
    async () => (await left()) === '0 keys and 0 addresses left',
    LIMIT_MS,
  )
  return `${atDeath}; later ${await left()}`
}

/** A person asks to be forgotten. */
export async function erasure(stage: Stage, point: CrashPoint): Promise<string> {
  const { database, recipient } = stage
  const ask = { body: { address: recipient } }
  const doomed = await stage.spawnDoomed(point, { SLUICE_ROLES: 'api' })
  await doomed?.request('/emails', { body: orderMail({ to: [recipient] }) })
  const first = await doomed?.request('/erasures', ask).catch(() => undefined)
  await doomed?.ended
  const survivor = await stage.startSurvivor({ SLUICE_ROLES: 'api' })
  const again = (await (await survivor.request('/erasures', ask)).json()) as { complete: boolean }
  const rows = await database.query('select from mail.message_content where message::text like $1', [
    `%${recipient}%`,
  ])
  return [
    first === undefined ? 'the connection broke' : `answered ${first.status}`,
    `the repeat says that it is ${again.complete ? '' : 'not '}complete`,
    `${rows.length} messages name the address`,
  ].join('; ')
}

/** `npm start -- migrate` on an empty database, and once more. */
export async function migration(stage: Stage, point: CrashPoint): Promise<string> {
  const { database } = stage
  const signal = await migrateUntil(point, database.url)
  const applied = async () => {
    const [row] = await database.query<{ count: number }>(
      'select count(*)::integer as count from mail.migration',
    )
    return row?.count ?? 0
  }
  const before = await applied()
  const survivor = await stage.startSurvivor({ SLUICE_ROLES: 'api' })
  const ready = await survivor.request('/readyz')
  const all = before === (await applied()) ? 'all' : String(before)
  return `ended by ${signal} with ${all} migrations; the next start does the rest and is ready (${ready.status})`
}

function times(count: number): string {
  return ['never', 'once', 'twice'][count] ?? `${count} times`
}
