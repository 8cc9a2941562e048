import { sql } from 'kysely'
import type { Database } from '../db/pool.ts'

export type Measured = {
  readonly backlog: number
  /** Null, as the next one, while nothing waits. */
  readonly first_seq: number | null
  /** Of the message that was received first. */
  readonly oldest_seq: number | null
  readonly oldest_age_s: number
  readonly last_seq: number
  readonly soft_backlog: number
  readonly hard_backlog: number
  readonly soft_age_s: number
  readonly hard_age_s: number
  readonly soft_growth_per_s: number | null
  readonly urgent_priority: number
}

/** How full the doors are, and the limits. Numbers as doubles: they are compared, not kept. */
export async function measureIntake(db: Database): Promise<Measured> {
  const { rows } = await sql<Measured>`/* intake.measure */
    select
      m.backlog::double precision as backlog,
      m.first_seq::double precision as first_seq,
      m.oldest_seq::double precision as oldest_seq,
      m.oldest_age_s,
      m.last_seq::double precision as last_seq,
      l.soft_backlog::double precision as soft_backlog,
      l.hard_backlog::double precision as hard_backlog,
      l.soft_age_s, l.hard_age_s, l.soft_growth_per_s, l.urgent_priority
    from mail.intake_limit l
    cross join mail.measure_intake() m
  `.execute(db)
  const [measured] = rows
  if (measured === undefined) throw new Error('mail.intake_limit has lost its row')
  return measured
}
