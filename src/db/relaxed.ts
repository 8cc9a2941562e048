import { sql } from 'kysely'

/**
 * Part of a statement, and then for its whole transaction: the commit need not wait for the disk. For what is simply made again when
 * a crash of Postgres undoes it; the next commit that does wait puts on the disk all that was committed before it. Not for the end of
 * somebody's work: who lives on believes it done, and nobody makes it again.
 */
export const relaxed = sql`relaxed as materialized (select set_config('synchronous_commit', 'off', true))`
