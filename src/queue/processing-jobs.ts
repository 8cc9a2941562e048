import { type RawBuilder, sql } from 'kysely'
import type { Catalog } from '../catalog.ts'
import { registration } from '../db/registration.ts'
import type { Transaction } from '../db/transaction.ts'
import type { Meter } from '../meter.ts'
import type { Bells } from './bells.ts'
import { queueMissing, SETTINGS, SETTINGS_OF_QUEUE } from './job-settings.ts'
import { jobPriority, type ProcessJob, processQueue, urgentBell } from './queues.ts'

/** Small enough that a stream's batches spread over its processing slots and processes. */
const IDS_PER_JOB = 100
/** Much more than a lane takes for the few messages that are handed over to it. */
const LEASE_S = 15

/** An accepted message, to be processed. */
export type Processable = { readonly id: string; readonly stream: string; readonly priority: number }

/** What a processing queue gets: a batch of messages of one stream and priority. */
type ProcessingJob = { readonly queue: string; readonly data: ProcessJob; readonly priority: number }

function processingJobs(messages: readonly Processable[]): ProcessingJob[] {
  const jobs: ProcessingJob[] = []
  for (const [stream, ofStream] of Map.groupBy(messages, (row) => row.stream)) {
    for (const [priority, alike] of Map.groupBy(ofStream, (row) => row.priority)) {
      for (let start = 0; start < alike.length; start += IDS_PER_JOB) {
        const ids = alike.slice(start, start + IDS_PER_JOB).map((row) => row.id)
        jobs.push({ queue: processQueue(stream), data: { ids }, priority: jobPriority(priority) })
      }
    }
  }
  return jobs
}

export type ProcessingOptions = {
  /** A query of the ids that there are, where not all of them may be. */
  readonly among?: RawBuilder<unknown>
  /** Whose the jobs are from the start (see handover.ts); where it is not registered any more they are anybody's, as without it. */
  readonly worker?: number | undefined
}

/**
 * Puts messages on the processing queues of their streams, as parts of a statement: `jobs` are queries to go with it, of which `handed`
 * has the ids of those that were claimed; `check`, which it has to select, ends it where a queue is not there yet.
 */
export function processingOf(
  messages: readonly Processable[],
  { among, worker }: ProcessingOptions = {},
): { readonly jobs: RawBuilder<unknown>; readonly check: RawBuilder<unknown> } {
  const processing = processingJobs(messages)
  const queues = [...new Set(processing.map(({ queue }) => queue))]
  const given = sql`json_to_recordset(${JSON.stringify(processing)}::json) as job (queue text, data jsonb, priority integer)`
  const wanted = sql`${among === undefined ? given : jobsAmong(given, among)} join pgboss.queue q on q.name = job.queue`
  const jobs = worker === undefined ? waitingJobs(wanted) : claimedJobs(wanted, worker)
  return { jobs, check: queueMissing(sql`select unnest(${queues}::text[])`) }
}

function waitingJobs(wanted: RawBuilder<unknown>): RawBuilder<unknown> {
  return sql`job as (
      insert into pgboss.job (name, data, priority, ${SETTINGS})
      select q.name, job.data, job.priority, ${SETTINGS_OF_QUEUE}
      from ${wanted}
    )`
}

/** As pg-boss leaves a job that was fetched, and the claim on it. */
function claimedJobs(wanted: RawBuilder<unknown>, worker: number): RawBuilder<unknown> {
  return sql`me as materialized (${registration(worker)}), job as (
      insert into pgboss.job (name, data, priority, state, started_on, heartbeat_on, ${SETTINGS})
      select
        q.name, job.data, job.priority, (case when me.number is null then 'created' else 'active' end)::pgboss.job_state,
        case when me.number is not null then now() end, case when me.number is not null then now() end, ${SETTINGS_OF_QUEUE}
      from ${wanted} left join me on true
      returning name, id
    ), handed as (
      insert into mail.claim (queue, job_id, worker, lease_until)
      select job.name, job.id, me.number, now() + make_interval(secs => ${LEASE_S}::integer)
      from job cross join me
      returning job_id
    )`
}

/** Those of the jobs, and of their ids, that there is anything of. */
function jobsAmong(given: RawBuilder<unknown>, among: RawBuilder<unknown>): RawBuilder<unknown> {
  return sql`(
      select job.queue, jsonb_build_object('ids', kept.ids) as data, job.priority
      from ${given}
      cross join lateral (
        select jsonb_agg(id order by place) as ids
        from jsonb_array_elements_text(job.data -> 'ids') with ordinality as each (id, place)
        where id::uuid in (${among})
      ) kept
      where kept.ids is not null
    ) job`
}

/** The same as a statement by itself. */
export async function enqueueProcessing(trx: Transaction, messages: readonly Processable[]): Promise<void> {
  const { jobs, check } = processingOf(messages)
  await sql`/* processing.enqueue */ with ${jobs} select ${check}`.execute(trx)
}

/** Once that has committed: wakes those who process, and counts what they got. */
export function announceProcessing(
  deps: {
    readonly bells: Bells
    readonly meter: Meter
    readonly catalog: { readonly current: Catalog }
  },
  messages: readonly Processable[],
): void {
  countProcessing(deps.meter, messages)
  const { current } = deps.catalog
  for (const bell of new Set(messages.map((message) => bellOf(current, message)))) deps.bells.ring(bell)
}

/** What came to processing. */
export function countProcessing(meter: Meter, messages: readonly Processable[]): void {
  for (const [stream, rows] of Map.groupBy(messages, (row) => row.stream)) {
    meter.cameIn({ stage: 'processing', stream, provider: '' }, rows.length)
  }
}

/** The bell of the lane that takes such a message. */
export function bellOf({ streams }: Catalog, { stream, priority }: Processable): string {
  return priority < (streams.get(stream)?.priority ?? 0) ? urgentBell(stream) : processQueue(stream)
}
