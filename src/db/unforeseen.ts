import { type RawBuilder, sql } from 'kysely'

/**
 * A condition that the planner expects to hold for about every second row. Written plainly, a state that hardly any row is in
 * makes it expect one or two rows of a batch, and compare each of hundreds with each.
 */
export function unforeseen(condition: RawBuilder<unknown>): RawBuilder<boolean> {
  return sql`case when ${condition} then true end`
}
