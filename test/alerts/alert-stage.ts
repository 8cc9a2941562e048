import { Notifier, type NotifierDeps } from '../../src/alerts/notifier.ts'
import { openPool } from '../../src/db/pool.ts'
import { createLog } from '../../src/log.ts'
import { parseListedHost } from '../../src/network/listed-hosts.ts'
import type { TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import type { WebhookReceiver } from '../support/webhook-receiver.ts'

export type Change = { readonly event: string; readonly rule: string; readonly subject: string }

/** One look of the leader at all rules. */
export async function evaluate({ query }: Pick<TestDatabase, 'query'>): Promise<Change[]> {
  return query<Change>('select event, rule, subject from mail.evaluate_alerts()')
}

/** The telling of one process, to targets on loopback. */
export function openNotifier(
  database: TestDatabase,
  receivers: readonly WebhookReceiver[],
  changes: Partial<NotifierDeps> = {},
): Notifier {
  const log = createLog('silent')
  const { db, close } = openPool({ url: database.url, maxConnections: 4, role: undefined, log })
  const notifier = new Notifier({
    ...{ db, log, environment: {}, now: Date.now },
    hosts: receivers.flatMap(({ host }) => parseListedHost(host) ?? []),
    ...changes,
  })
  database.beforeDrop(async () => {
    await notifier.stop(AbortSignal.abort())
    await close()
  })
  return notifier
}

type RuleSettings = {
  readonly for_s?: number
  readonly clear_for_s?: number
  readonly repeat_s?: number
}

/** A rule about dead letters that fires above 10 and is over at 5, at once unless told otherwise; no other is enabled. */
export async function makeRule(
  { query }: Pick<TestDatabase, 'query'>,
  changes: RuleSettings = {},
): Promise<void> {
  await query('update mail.alert_rule set enabled = false')
  const { for_s = 0, clear_for_s = 0, repeat_s = null } = changes
  await query(
    `insert into mail.alert_rule (name, kind, threshold, clear_at, for_s, clear_for_s, repeat_s, description, command)
     values ('many', 'dead_letters', 10, 5, $1, $2, $3, 'many', 'select 1;')`,
    [for_s, clear_for_s, repeat_s],
  )
}

/** So many dead letters and no more. */
export async function setDeadLetters(
  { query }: Pick<TestDatabase, 'query'>,
  count: number,
  stream = 'transactional',
): Promise<void> {
  await query('delete from mail.dead_letter where stream = $1', [stream])
  await query(
    `insert into mail.dead_letter (message_id, stage, code, reason, stream, source)
     select gen_random_uuid(), 'dispatch', 'refused', 'no', $2, 'x' from generate_series(1, $1::integer)`,
    [count, stream],
  )
}

export async function addTarget(
  { query }: Pick<TestDatabase, 'query'>,
  settings: Readonly<Record<string, unknown>>,
): Promise<string> {
  const columns = Object.keys(settings)
  const [row] = await query<{ id: string }>(
    `insert into mail.alert_target (${columns.join(', ')}) values (${columns.map((_, n) => `$${n + 1}`).join(', ')}) returning id`,
    Object.values(settings),
  )
  return row?.id ?? ''
}

export type Delivery = {
  readonly target: string
  readonly state: string
  readonly tries: number
  readonly last_error: string | null
}

export async function deliveriesOf({ query }: Pick<TestDatabase, 'query'>): Promise<Delivery[]> {
  return query<Delivery>(
    `select t.name as target, d.state, d.tries, d.last_error
     from mail.alert_delivery d join mail.alert_target t on t.id = d.target_id order by d.id`,
  )
}

export function untilState(database: TestDatabase, target: string, state: string): Promise<Delivery> {
  return eventually(`a message to ${target} is ${state}`, async () =>
    (await deliveriesOf(database)).find((each) => each.target === target && each.state === state),
  )
}

/** What waits for its next attempt is due now. */
export async function makeDue({ query }: Pick<TestDatabase, 'query'>): Promise<void> {
  await query('update mail.alert_delivery set next_attempt_at = now() where ended_at is null')
}
