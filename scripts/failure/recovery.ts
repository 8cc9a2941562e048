import type { Kill } from './kills.ts'
import type { Queryable } from './queryable.ts'

export type Recovery = {
  /** Seconds from the death of a worker until each message it was sending was given to others. */
  readonly recoveriesS: readonly number[]
  /** Those messages: the only ones that may have gone out twice, and only as often as their workers died. */
  readonly ids: ReadonlySet<string>
  /** Dead letters by docs/guarantees.md: as often as the stream tries its worker died. */
  readonly usedUp: number
  /** What is said of every other dead letter. */
  readonly unexplained: readonly string[]
}

/** What `mail.event` says about the messages that dead workers had been sending. */
export async function recoveryAfter({ query }: Queryable, kills: readonly Kill[]): Promise<Recovery> {
  const rows = await query<{ id: string; worker: number; at: Date }>(
    `select message_id as id, (detail->>'worker')::integer as worker, at
     from mail.event where type = 'recovered'`,
  )
  const diedAt = new Map(kills.map(({ worker, at }) => [worker, at]))
  const recoveriesS = rows.flatMap(({ worker, at }) => {
    const death = diedAt.get(worker)
    return death === undefined ? [] : [Math.max(0, (at.getTime() - death) / 1_000)]
  })
  const dead = await query<{ is_used_up: boolean; what: string }>(
    `select
       d.stage = 'dispatch' and d.code = 'worker_died' and d.attempts = s.attempts and d.attempts = 1 + deaths.count as is_used_up,
       format('a message is dead (%s, %s) after %s attempts, recovered %s times', d.stage, d.code, d.attempts, deaths.count) as what
     from mail.dead_letter d
     join mail.stream s on s.name = d.stream
     cross join lateral (
       select count(*) from mail.event e where e.message_id = d.message_id and e.type = 'recovered'
     ) deaths`,
  )
  return {
    recoveriesS,
    ids: new Set(rows.map(({ id }) => id)),
    usedUp: dead.filter((letter) => letter.is_used_up).length,
    unexplained: dead.filter((letter) => !letter.is_used_up).map(({ what }) => what),
  }
}

/** Within which messages of a dead worker move again (p95), as docs/guarantees.md promises. */
export const RECOVERY_LIMIT_S = 10
