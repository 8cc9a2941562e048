import { sql } from 'kysely'
import { ALERT_SOURCE, ALERT_STREAM } from '../alert-mail.ts'
import type { Database } from '../db/pool.ts'
import { inTransaction, type Transaction } from '../db/transaction.ts'

export type Target = {
  readonly name: string
  readonly kind: 'slack' | 'generic' | 'email'
  readonly url: string | null
  readonly url_env: string | null
  readonly secret_env: string | null
  readonly address: string | null
  readonly sender: string | null
}

/** An alert as a target is told of it. Moments are ISO 8601. */
export type ToldAlert = {
  readonly id: string
  readonly event: 'fired' | 'reminded' | 'resolved'
  readonly rule: string
  readonly subject: string
  readonly severity: 'warning' | 'critical'
  readonly stream: string | null
  readonly provider: string | null
  readonly what: string
  readonly value: number
  readonly worst_value: number
  readonly threshold: number
  readonly since: string
  readonly fired_at: string
  readonly resolved_at: string | null
  readonly command: string
  readonly page: string
}

export type Delivery = Target & {
  readonly id: string
  readonly created_at: Date
  /** Attempts with this one; who ends another attempt has another number, and changes nothing. */
  readonly tries: number
  readonly alerts: readonly ToldAlert[]
}

/** Longer than any attempt takes: a lease that is over belongs to a process that died. */
const LEASE = sql`interval '60 seconds'`

/**
 * Takes what is due: of each target the oldest message alone, so that nothing overtakes. Locked first and read then: what
 * another process put into a message until that moment is seen, and what comes later finds that it gathers no more.
 */
export async function claimDeliveries(db: Database): Promise<Delivery[]> {
  return inTransaction(db, async (trx) => {
    const ids = await lockDue(trx)
    return ids.length === 0 ? [] : takeDeliveries(trx, ids)
  })
}

async function lockDue(trx: Transaction): Promise<string[]> {
  const { rows } = await sql<{ id: string }>`/* alerts.lock_due */
    with gate as materialized (
      select mail.why_held() is not null as is_held
    ), head as materialized (
      select distinct on (d.target_id) d.id
      from mail.alert_delivery d
      join mail.alert_target t on t.id = d.target_id and t.enabled
      cross join gate
      where d.state in ('gathering', 'sending')
        -- While nothing is sent, the alert that says so is all that is told, whatever waits before it.
        and (not gate.is_held or exists (
          select
          from mail.alert_notice n
          join mail.alert a on a.id = n.alert_id
          join mail.alert_rule r on r.name = a.rule and r.kind = 'sending_held'
          where n.delivery_id = d.id
        ))
      order by d.target_id, d.id
    )
    select d.id
    from mail.alert_delivery d
    join head on head.id = d.id
    where d.state in ('gathering', 'sending') and d.next_attempt_at <= clock_timestamp()
      and (d.leased_until is null or d.leased_until < clock_timestamp())
    for update of d skip locked
  `.execute(trx)
  return rows.map(({ id }) => id)
}

async function takeDeliveries(trx: Transaction, ids: readonly string[]): Promise<Delivery[]> {
  const { rows } = await sql<Delivery>`/* alerts.claim */
    with claimed as (
      update mail.alert_delivery d
      set state = 'sending', tries = d.tries + 1, leased_until = clock_timestamp() + ${LEASE},
        alerts = coalesce(d.alerts, (
          select jsonb_agg(to_jsonb(told) order by told.fired_at, told.id)
          from (
            select distinct on (n.alert_id)
              a.id, n.event, a.rule, a.subject, a.severity, a.stream, a.provider, a.what, a.value, a.worst_value,
              a.threshold, a.since, a.fired_at, a.resolved_at, a.command, a.page
            from mail.alert_notice n
            join mail.alert a on a.id = n.alert_id
            where n.delivery_id = d.id
            order by n.alert_id, n.id desc
          ) told
        ), '[]')
      where d.id = any (${ids}::uuid[])
      returning d.id, d.target_id, d.created_at, d.tries, d.alerts
    )
    select c.id, c.created_at, c.tries, c.alerts, t.name, t.kind, t.url, t.url_env, t.secret_env, t.address, t.sender
    from claimed c
    join mail.alert_target t on t.id = c.target_id
  `.execute(trx)
  return rows
}

type Attempt = Pick<Delivery, 'id' | 'tries'>

export async function storeSent(db: Database, { id, tries }: Attempt): Promise<void> {
  await sql`/* alerts.sent */
    update mail.alert_delivery
    set state = 'sent', ended_at = clock_timestamp(), leased_until = null, last_error = null
    where id = ${id}::uuid and state = 'sending' and tries = ${tries}
  `.execute(db)
}

/** `delayMs` until the next attempt; null gives it up. */
export async function storeFailed(
  db: Database,
  { id, tries }: Attempt,
  error: string,
  delayMs: number | null,
): Promise<void> {
  await sql`/* alerts.failed */
    update mail.alert_delivery
    set last_error = ${error}, leased_until = null,
      state = case when ${delayMs}::double precision is null then 'failed' else 'sending' end,
      ended_at = case when ${delayMs}::double precision is null then clock_timestamp() end,
      next_attempt_at = coalesce(
        clock_timestamp() + make_interval(secs => ${delayMs}::double precision / 1000), next_attempt_at
      )
    where id = ${id}::uuid and state = 'sending' and tries = ${tries}
  `.execute(db)
}

export type AlertMail = {
  readonly from: string
  readonly to: string
  readonly subject: string
  readonly text: string
}

/** Puts mail about alerts on its way; with its delivery that is over, in the same transaction. */
export async function handInMail(db: Database, mail: AlertMail, delivery?: Attempt): Promise<void> {
  await inTransaction(db, async (trx) => {
    await sql`/* alerts.hand_in_mail */
      insert into mail.outbox (message, stream, priority, source)
      values (${JSON.stringify(mail)}::json, ${ALERT_STREAM}, 0, ${ALERT_SOURCE})
    `.execute(trx)
    if (delivery === undefined) return
    const { rows } = await sql`/* alerts.mail_handed_in */
      update mail.alert_delivery
      set state = 'sent', ended_at = clock_timestamp(), leased_until = null, last_error = null
      where id = ${delivery.id}::uuid and state = 'sending' and tries = ${delivery.tries}
      returning id
    `.execute(trx)
    // Another process has it in hand, and its mail is the one that goes.
    if (rows.length === 0) throw new Error('the lease of this delivery is over')
  })
}

export async function findTarget(db: Database, id: string): Promise<Target | undefined> {
  const { rows } = await sql<Target>`/* alerts.find_target */
    select name, kind, url, url_env, secret_env, address, sender from mail.alert_target where id = ${id}::uuid
  `.execute(db)
  return rows[0]
}
