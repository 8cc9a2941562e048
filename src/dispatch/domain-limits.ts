import { sql } from 'kysely'
import type { DomainLimit } from '../catalog.ts'
import type { Transaction } from '../db/transaction.ts'
import { decideTurns, limitText, type Pace } from './domain-pace.ts'
import { envelopeOf } from './outgoing.ts'
import type { ClaimedMessage } from './queries.ts'

/**
 * Mail that was claimed and has to wait for a limited domain is put back within the claim's own transaction: deferred,
 * without an attempt, its job due at its turn. If the process dies before the commit, nothing happened.
 */

/** What a job that was put back holds. */
export type Turn = { readonly hasTurn?: boolean; readonly because: string }

export type PutBack = {
  readonly id: string
  readonly because: string
  /** Milliseconds since the epoch, by the database's clock. */
  readonly comesAt: number
  readonly waitMs: number
}

type Claimed = { readonly message: ClaimedMessage; readonly turn: Turn | undefined }

/** The limits that hold for a domain: of this provider and of all, its own before that of every domain. */
export function limitsFor(limits: readonly DomainLimit[], provider: string, domain: string): DomainLimit[] {
  return [provider, null].flatMap((scope) => {
    const inScope = limits.filter((limit) => limit.provider === scope)
    const own =
      inScope.find((limit) => limit.domain === domain) ?? inScope.find((limit) => limit.domain === '*')
    return own === undefined ? [] : [own]
  })
}

/** Those of the claimed messages that must wait, by id. Without a limit for any of them the database is not asked. */
export async function putBackLimited(
  trx: Transaction,
  given: { limits: readonly DomainLimit[]; provider: string; isUrgent: boolean },
  claimed: readonly Claimed[],
): Promise<ReadonlyMap<string, PutBack>> {
  if (given.limits.length === 0) return new Map()
  const keysOf = new Map(claimed.map((each) => [each, limitedDomains(given, each.message)]))
  const wanted = new Map([...keysOf.values()].flat().map((key) => [keyOf(key), key]))
  if (wanted.size === 0) return new Map()
  const { paces, now } = await lockPaces(trx, [...wanted.values()])
  const limited = [...keysOf].flatMap(([{ message, turn }, keys]) => {
    const own = keys.flatMap((key) => paces.get(keyOf(key)) ?? [])
    return own.length === 0 ? [] : [{ id: message.id, paces: own, hasTurn: turn?.hasTurn === true }]
  })
  const verdicts = decideTurns(limited, { now, isUrgent: given.isUrgent })
  const putBack = limited.flatMap(({ id }, index) => {
    const verdict = verdicts[index]
    if (verdict === undefined) return []
    const { comesAt, pace } = verdict
    return [{ id, comesAt, because: limitText(pace), waitMs: comesAt - now }]
  })
  await storePaces(trx, [...paces.values()])
  if (putBack.length > 0) await storePutBack(trx, putBack)
  return new Map(putBack.map((each) => [each.id, each]))
}

type Key = Pick<Pace, 'limit' | 'domain'>

function keyOf({ limit, domain }: Key): string {
  return `${limit.id} ${domain}`
}

function limitedDomains(
  { limits, provider }: { limits: readonly DomainLimit[]; provider: string },
  message: ClaimedMessage,
): Key[] {
  const domains = new Set(envelopeOf(message).to.map((address) => address.toLowerCase().split('@')[1] ?? ''))
  return [...domains].flatMap((domain) =>
    limitsFor(limits, provider, domain).map((limit) => ({ limit, domain })),
  )
}

/** With the settings of the limit as they are now: the catalog may be half a second old. */
type PaceRow = Omit<DomainLimit, 'id' | 'domain'> & {
  readonly limit_id: number
  readonly domain: string
  readonly spent: number
  readonly planned: number
  readonly planned_urgent: number
  readonly late: number
  readonly now: number
}

/** In one order everywhere, so that two claims cannot wait for each other. A limit that is gone has no row. */
async function lockPaces(
  trx: Transaction,
  keys: readonly Key[],
): Promise<{ paces: Map<string, Pace>; now: number }> {
  let rows = await readPaces(trx, keys)
  // A row that another claim made at this moment is seen by the next statement.
  if (rows.length < keys.length) rows = await readPaces(trx, keys)
  const found = new Map(rows.map((row) => [`${row.limit_id} ${row.domain}`, row]))
  const paces = keys.flatMap((key): [string, Pace][] => {
    const row = found.get(keyOf(key))
    if (row === undefined) return []
    const { provider, quota, windowMs, utilization, burst } = row
    const limit = { ...key.limit, provider, quota, windowMs, utilization, burst }
    const planned = { plannedUntil: row.planned, plannedUrgentUntil: row.planned_urgent }
    const pace = { domain: key.domain, limit, spentUntil: row.spent, lateUntil: row.late, ...planned }
    return [[keyOf(key), pace]]
  })
  return { paces: new Map(paces), now: Math.max(0, ...rows.map((row) => row.now)) }
}

async function readPaces(trx: Transaction, keys: readonly Key[]): Promise<PaceRow[]> {
  const wanted = JSON.stringify(keys.map(({ limit, domain }) => ({ limit_id: limit.id, domain })))
  const { rows } = await sql<PaceRow>`/* dispatch.lock_paces */
    with wanted as materialized (
      select
        w.limit_id, w.domain, l.provider, l.quota, l.window_s * 1000 as "windowMs", l.utilization,
        coalesce(l.burst, greatest(1, l.quota / l.window_s / 4)) as burst
      from json_to_recordset(${wanted}::json) as w (limit_id integer, domain text)
      join mail.domain_limit l on l.id = w.limit_id
    ), made as (
      insert into mail.domain_pace (limit_id, domain)
      select limit_id, domain from wanted order by limit_id, domain
      on conflict (limit_id, domain) do nothing
      returning limit_id, domain, spent_until, planned_until, planned_urgent_until, late_until
    ), locked as materialized (
      select p.limit_id, p.domain, p.spent_until, p.planned_until, p.planned_urgent_until, p.late_until
      from mail.domain_pace p
      join wanted w on w.limit_id = p.limit_id and w.domain = p.domain
      order by p.limit_id, p.domain
      for update of p
    )
    select
      limit_id, domain, w.provider, w.quota, w."windowMs", w.utilization, w.burst,
      extract(epoch from spent_until)::double precision * 1000 as spent,
      extract(epoch from planned_until)::double precision * 1000 as planned,
      extract(epoch from planned_urgent_until)::double precision * 1000 as planned_urgent,
      extract(epoch from late_until)::double precision * 1000 as late,
      extract(epoch from clock_timestamp())::double precision * 1000 as now
    from (select * from made union all select * from locked) pace
    join wanted w using (limit_id, domain)
  `.execute(trx)
  return rows
}

async function storePaces(trx: Transaction, paces: readonly Pace[]): Promise<void> {
  const rows = paces.map((pace) => ({
    ...{ limit_id: pace.limit.id, domain: pace.domain, spent: pace.spentUntil, late: pace.lateUntil },
    ...{ planned: pace.plannedUntil, planned_urgent: pace.plannedUrgentUntil },
  }))
  await sql`/* dispatch.store_paces */
    update mail.domain_pace p
    set spent_until = to_timestamp(row.spent / 1000),
      planned_until = to_timestamp(row.planned / 1000),
      planned_urgent_until = to_timestamp(row.planned_urgent / 1000),
      late_until = to_timestamp(row.late / 1000)
    from json_to_recordset(${JSON.stringify(rows)}::json) as row (
      limit_id integer, domain text, spent double precision, planned double precision, planned_urgent double precision,
      late double precision
    )
    where p.limit_id = row.limit_id and p.domain = row.domain
  `.execute(trx)
}

async function storePutBack(trx: Transaction, putBack: readonly PutBack[]): Promise<void> {
  const ids = putBack.map(({ id }) => id)
  await sql`/* dispatch.put_back */
    update mail.message m
    set status = 'deferred',
      worker = null,
      attempts = m.attempts - 1,
      last_error = 'domain_limit',
      next_attempt_at = to_timestamp(row."comesAt" / 1000)
    from json_to_recordset(${JSON.stringify(putBack)}::json) as row (id uuid, "comesAt" double precision)
    where m.id = row.id and m.id = any (${ids}::uuid[])
  `.execute(trx)
}
