import { type RawBuilder, sql } from 'kysely'
import type { Catalog } from '../catalog.ts'
import type { Transaction } from '../db/transaction.ts'
import type { Meter } from '../meter.ts'
import type { Bells } from './bells.ts'
import { queueMissing, SETTINGS, SETTINGS_OF_QUEUE } from './job-settings.ts'
import { jobPriority, type ProcessJob, processQueue, urgentBell } from './queues.ts'

/** Small enough that a stream's batches spread over its processing slots and processes. */
const IDS_PER_JOB = 100

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

/**
 * Puts messages on the processing queues of their streams, as parts of a statement: `insert` writes the jobs, and `check`, which it has
 * to select, ends it where a queue is not there yet. `among`: a query of the ids that there are, where not all of them may be.
 */
export function processingOf(
  messages: readonly Processable[],
  among?: RawBuilder<unknown>,
): { readonly insert: RawBuilder<unknown>; readonly check: RawBuilder<unknown> } {
  const jobs = processingJobs(messages)
  const queues = [...new Set(jobs.map(({ queue }) => queue))]
  const given = sql`json_to_recordset(${JSON.stringify(jobs)}::json) as job (queue text, data jsonb, priority integer)`
  const insert = sql`
    insert into pgboss.job (name, data, priority, ${SETTINGS})
    select q.name, job.data, job.priority, ${SETTINGS_OF_QUEUE}
    from ${among === undefined ? given : jobsAmong(given, among)}
    join pgboss.queue q on q.name = job.queue`
  return { insert, check: queueMissing(sql`select unnest(${queues}::text[])`) }
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
  const { insert, check } = processingOf(messages)
  await sql`/* processing.enqueue */ with job as (${insert}) select ${check}`.execute(trx)
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
  for (const [stream, rows] of Map.groupBy(messages, (row) => row.stream)) {
    deps.meter.cameIn({ stage: 'processing', stream, provider: '' }, rows.length)
    const ordinary = deps.catalog.current.streams.get(stream)?.priority ?? 0
    const isUrgent = (row: Processable) => row.priority < ordinary
    if (rows.some(isUrgent)) deps.bells.ring(urgentBell(stream))
    if (!rows.every(isUrgent)) deps.bells.ring(processQueue(stream))
  }
}
