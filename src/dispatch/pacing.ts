import { sql } from 'kysely'
import type { Database } from '../db/pool.ts'
import type { Look } from '../queue/queue-front.ts'
import { waitingJobs } from './job-queries.ts'

export type Grant = { readonly granted: number; readonly waitMs: number; readonly reason: string | null }

/**
 * Asks how many messages may go to a provider now, for no more than wait in the queues: undefined when none
 * does. What is granted counts as sent unless given back. The commit does not wait for the disk: a crash of
 * Postgres gives tokens of the last moment twice, which the share of the quota left unused allows.
 */
export async function takeTokens(
  db: Database,
  want: {
    provider: string
    messages: number
    priority: number
    batch: number
    /** Where mail waits, each with the look that its next claim would begin with. */
    queues: readonly { readonly queue: string; readonly look: Look }[]
  },
): Promise<Grant | undefined> {
  const { rows } = await sql<Grant>`/* dispatch.take_tokens */
    select t.granted, t.wait_ms as "waitMs", t.reason
    from (
      select count(*)::integer as messages, set_config('synchronous_commit', 'off', true)
      from (
        ${waitingJobs(want.queues, want.messages)}
      ) job
    ) waiting
    cross join lateral mail.take_tokens(
      ${want.provider}, waiting.messages, ${want.priority}::smallint, ${want.batch}::integer
    ) t
    where waiting.messages > 0
  `.execute(db)
  return rows[0]
}

export async function returnTokens(
  db: Database,
  provider: string,
  messages: number,
  batch: number,
): Promise<void> {
  await sql`/* dispatch.return_tokens */
    select set_config('synchronous_commit', 'off', true), mail.return_tokens(${provider}, ${messages}::integer, ${batch}::integer)
  `.execute(db)
}

export type Results = {
  readonly provider: string
  readonly worker: number
  readonly requests: number
  readonly faults: number
  readonly reason: string | null
}

export async function noteResults(db: Database, results: Results): Promise<void> {
  const { provider, worker, requests, faults, reason } = results
  await sql`/* dispatch.note_results */
    select set_config('synchronous_commit', 'off', true),
      mail.note_results(${provider}, ${worker}::integer, ${requests}::integer, ${faults}::integer, ${reason})
  `.execute(db)
}

export async function blockProvider(
  db: Database,
  provider: string,
  waitMs: number | null,
  reason: string,
): Promise<void> {
  await sql`/* dispatch.block */ select mail.block_provider(${provider}, ${waitMs}::integer, ${reason})`.execute(
    db,
  )
}

export async function noteRemaining(
  db: Database,
  provider: string,
  remaining: number,
  resetMs: number | null,
): Promise<void> {
  await sql`/* dispatch.remaining */
    select mail.note_remaining(${provider}, ${remaining}::integer, ${resetMs}::integer)
  `.execute(db)
}

/** Whether a worker could open a provider's transport; a reason is told to operators, null takes it back. */
export async function tellUsable(db: Database, provider: string, reason: string | null): Promise<void> {
  await sql`/* dispatch.usable */
    insert into mail.provider_state as s (provider, unusable_reason)
    select ${provider}, ${reason}::text
    where ${reason}::text is not null or exists (select from mail.provider_state where provider = ${provider})
    on conflict (provider) do update set unusable_reason = excluded.unusable_reason
    where s.unusable_reason is distinct from excluded.unusable_reason
  `.execute(db)
}
