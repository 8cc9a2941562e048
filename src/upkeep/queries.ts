import { sql } from 'kysely'
import type { Database } from '../db/pool.ts'
import { WORKER_LOCK } from '../db/session.ts'
import { inTransaction, type Transaction } from '../db/transaction.ts'

/**
 * Long enough that a living worker is back after a restart of Postgres, short enough that a dead one's mail moves again
 * within seconds.
 */
const GRACE_S = 3

export type OtherWorker = {
  readonly number: number
  readonly name: string
  readonly lock_key: number
  readonly lock_is_free: boolean
  /** Its lock has been free for the grace. */
  readonly is_dead: boolean
}

/**
 * The other workers. A lock counts while the worker's own session holds it: anybody else may take it too. Since when it is
 * free stands in the register, so that the grace goes on when whoever began it dies as well.
 */
export async function probeWorkers(db: Database, self: number): Promise<OtherWorker[]> {
  const { rows } = await sql<OtherWorker>`/* upkeep.probe_workers */
    with held as materialized (
      select pid, objid
      from pg_catalog.pg_locks
      where locktype = 'advisory' and granted and classid = ${WORKER_LOCK}::integer::oid and objsubid = 2
        and database = (select oid from pg_catalog.pg_database where datname = current_database())
    ), other as materialized (
      select w.number, w.name, w.lock_key, w.free_since, held.pid is null as lock_is_free, clock_timestamp() as at
      from mail.worker w
      left join held on held.pid = w.backend_pid and held.objid = w.lock_key::oid
      where w.number <> ${self}
    ), noted as (
      update mail.worker w
      set free_since = case when other.lock_is_free then other.at end
      from other
      -- By its key: one that came back after this look has another.
      where w.number = other.number and w.lock_key = other.lock_key
        -- A time that is still to come is of a clock that was set back.
        and (other.lock_is_free and (other.free_since is null or other.free_since > other.at)
          or not other.lock_is_free and other.free_since is not null)
    )
    select
      number, name, lock_key, lock_is_free,
      lock_is_free and coalesce(at - free_since >= make_interval(secs => ${GRACE_S}), false) as is_dead
    from other
  `.execute(db)
  return rows
}

export type RescuedMessage = {
  readonly id: string
  readonly queue: string
  readonly priority: number
  readonly status: 'queued' | 'unknown' | 'dead'
}

/**
 * What a dead worker was sending: nobody knows whether it went out. By the stream's `on_unknown` it is
 * sent again (dead when its attempts are used up) or held. Found through the active jobs, which are few:
 * `mail.message` has no index on its state.
 */
export async function rescueMessages(trx: Transaction, worker: number): Promise<RescuedMessage[]> {
  const { rows } = await sql<RescuedMessage>`/* upkeep.rescue_messages */
    with lost as materialized (
      select
        m.id, j.name as queue,
        case
          when s.on_unknown is distinct from 'retry' then 'unknown'
          when m.attempts >= s.attempts then 'dead'
          else 'queued'
        end as status
      from pgboss.job j
      join mail.message m on m.id = j.id
      left join mail.stream s on s.name = m.stream
      where j.name = any (array(select name from pgboss.queue where name like 'dispatch.%')) and j.state = 'active'
        and m.status = 'sending' and m.worker = ${worker}
    ), rescued as (
      update mail.message m
      set status = lost.status, worker = null, last_error = 'worker_died'
      from lost
      -- Said again, as the row is read anew after waiting for a worker that was settling it just now.
      where m.id = lost.id and m.status = 'sending' and m.worker = ${worker}
      returning m.*, lost.queue
    ), happened as (
      insert into mail.event (message_id, type, detail)
      select
        id,
        case status when 'queued' then 'recovered' else status end,
        json_build_object('provider', provider, 'attempt', attempts, 'code', 'worker_died', 'worker', ${worker}::integer)
      from rescued
    ), dead as (
      insert into mail.dead_letter (
        message_id, stage, code, reason, attempts, stream, provider, template, template_version, source
      )
      select
        id, 'dispatch', 'worker_died', 'The worker died while sending it, in each of its attempts; it may have been sent.',
        attempts, stream, provider, template, template_version, source
      from rescued where status = 'dead'
    )
    select id, queue, priority, status from rescued
  `.execute(trx)
  return rows
}

export type HeldJob = { readonly queue: string; readonly job_id: string }

/** The processing jobs a dead worker held. */
export async function takeClaims(trx: Transaction, worker: number): Promise<HeldJob[]> {
  return trx.deleteFrom('mail.claim').where('worker', '=', worker).returning(['queue', 'job_id']).execute()
}

/** The processing jobs that were handed over to somebody who has not ended them in time. */
export async function takeOverdue(trx: Transaction): Promise<HeldJob[]> {
  const { rows } = await sql<HeldJob>`/* upkeep.take_overdue */
    delete from mail.claim
    where ctid = any (array(
      -- One that is being ended at this moment is not overdue.
      select ctid from mail.claim where lease_until < clock_timestamp() for update skip locked
    ))
    returning queue, job_id
  `.execute(trx)
  return rows
}

/** False when somebody was quicker: another rescuer, or the worker, which has another key since it came back. */
export async function forgetWorker(
  trx: Transaction,
  { number, lock_key: key }: Pick<OtherWorker, 'number' | 'lock_key'>,
): Promise<boolean> {
  const { rows } = await sql`/* upkeep.forget_worker */
    with gone as (
      delete from mail.worker where number = ${number} and lock_key = ${key} returning number, name
    )
    insert into mail.worker_death (number, name) select number, name from gone returning 1
  `.execute(trx)
  return rows.length > 0
}

export type IntakeLoss = { readonly intact_at: Date; readonly at_least: string; readonly at_most: string }

export async function watchIntake(db: Database): Promise<IntakeLoss[]> {
  const { rows } = await sql<IntakeLoss>`/* upkeep.watch_intake */
    select intact_at, at_least, at_most from mail.watch_intake()
  `.execute(db)
  return rows
}

export async function ensurePartitions(db: Database): Promise<number> {
  const { rows } = await sql<{ made: number }>`/* upkeep.partitions */
    select mail.ensure_partitions() as made
  `.execute(db)
  return rows[0]?.made ?? 0
}

const PURGE_ROWS = 10_000

/** Removes measures and paces that nothing reads any more; true when there may be more. */
export async function purge(db: Database): Promise<boolean> {
  const { rows } = await sql<{ most: string }>`/* upkeep.purge */
    with rates as (
      delete from mail.throughput where bucket_at < now() - interval '3 hours'
    ), tallies as (
      delete from mail.tally where bucket_at < now() - interval '3 hours'
    ), times as (
      delete from mail.tally_time where bucket_at < now() - interval '3 hours'
    ), samples as (
      delete from mail.sample where at < now() - interval '3 hours'
    ), health as (
      delete from mail.provider_window where second < extract(epoch from now()) - 120
    ), paces as (
      -- What lies in the past says as much as no row. A claim holds the row it reads.
      delete from mail.domain_pace
      where (limit_id, domain) in (
        select limit_id, domain from mail.domain_pace
        where greatest(spent_until, planned_until, planned_urgent_until, late_until) < now() - interval '1 minute'
        limit ${PURGE_ROWS}
        for update skip locked
      )
      returning 1
    )
    select count(*) as most from paces
  `.execute(db)
  return Number(rows[0]?.most) === PURGE_ROWS
}

/** What one step of retention did. */
export type Retained = { readonly action: string; readonly relation: string; readonly rows: number }

/** At most so many rows a transaction: short enough that nobody waits for it, and vacuum is not held back. */
const RETAINED_ROWS = 10_000

/** The next step of retention; undefined when nothing is left to do. */
export async function retain(db: Database, most: number = RETAINED_ROWS): Promise<Retained | undefined> {
  const { rows } = await sql<Retained>`/* upkeep.retain */
    select action, relation, rows::integer as rows from mail.retain(${most}::integer)
  `.execute(db)
  return rows[0]
}

const PURGE_ATTACHMENTS = 1_000

/** Removes attachments that no message uses and that were given more than a day ago; true when there may be more. */
export async function purgeAttachments(db: Database): Promise<boolean> {
  const given = await purgeGivenAttachments(db)
  return (await purgeOrphans(db)) || given
}

/** An hour more than a day: who hands in the same bytes again within the hour is not stored again. */
async function purgeGivenAttachments(db: Database): Promise<boolean> {
  const { rows } = await sql`/* upkeep.purge_given */
    delete from mail.attachment_given
    where ctid = any (array(
      select ctid from mail.attachment_given where given_at < now() - interval '25 hours' limit ${PURGE_ATTACHMENTS}
    ))
    returning 1
  `.execute(db)
  return rows.length === PURGE_ATTACHMENTS
}

async function purgeOrphans(db: Database): Promise<boolean> {
  return inTransaction(db, async (trx) => {
    const { rows } = await sql<{ sha256: string }>`/* upkeep.lock_orphans */
      select encode(a.sha256, 'hex') as sha256
      from mail.attachment a
      where a.given_at < now() - interval '1 day'
        and not exists (select from mail.attachment_use u where u.sha256 = a.sha256)
      limit ${PURGE_ATTACHMENTS}
      for update of a skip locked
    `.execute(trx)
    if (rows.length === 0) return false
    // Asked again under the lock: a use may have been noted just before it was taken.
    await sql`/* upkeep.purge_attachments */
      delete from mail.attachment a
      where a.sha256 = any (array(select decode(given, 'hex') from unnest(${rows.map(({ sha256 }) => sha256)}::text[]) as given))
        and not exists (select from mail.attachment_use u where u.sha256 = a.sha256)
    `.execute(trx)
    return rows.length === PURGE_ATTACHMENTS
  })
}
