import { sql } from 'kysely'
import type { Database } from '../db/pool.ts'

export type Measured = {
  readonly backlog: number
  readonly last_seq: number
  readonly oldest_age_s: number
  readonly pressure: 'soft' | 'hard' | null
  readonly cause: 'backlog' | 'age' | null
  readonly soft_backlog: number
  readonly hard_backlog: number
  readonly soft_growth_per_s: number | null
  readonly urgent_priority: number
}

/** How full the doors are, and the limits. Numbers as doubles: they are compared, not kept. */
export async function measureIntake(db: Database): Promise<Measured> {
  const { rows } = await sql<Measured>`/* intake.measure */
    select
      m.backlog::double precision as backlog,
      m.last_seq::double precision as last_seq,
      m.oldest_age_s, m.pressure, m.cause,
      l.soft_backlog::double precision as soft_backlog,
      l.hard_backlog::double precision as hard_backlog,
      l.soft_growth_per_s, l.urgent_priority
    from mail.intake_limit l
    cross join mail.measure_intake() m
  `.execute(db)
  const [measured] = rows
  if (measured === undefined) throw new Error('mail.intake_limit has lost its row')
  return measured
}
