import type { Family } from './family.ts'
import type { PostgresState, Sizes } from './queries.ts'

const HOLDERS = ['session', 'prepared_transaction', 'replication_slot'] as const

/** With how long, as far as this process saw, what is oldest has been held. */
export type WatchedPostgres = PostgresState & { readonly held_s: number }

/**
 * How long the oldest transaction has been the same one, in seconds. What a session holds is seen with any rights, since
 * when is not. Only a transaction older than the present one counts: while nothing is written, all look the same.
 */
export function watchHeld(now: () => number): (oldestXmin: string | null) => number {
  let held: { readonly xmin: string; readonly since: number } | undefined
  return (xmin) => {
    if (xmin === null) held = undefined
    else if (held?.xmin !== xmin) held = { xmin, since: now() }
    return held === undefined ? 0 : (now() - held.since) / 1_000
  }
}

/** How Postgres itself is doing, as far as the queues in it depend on that. */
export const POSTGRES_FAMILIES: readonly Family<WatchedPostgres>[] = [
  {
    name: 'sluice_postgres_oldest_transaction_age_seconds',
    type: 'gauge',
    help: 'How long the oldest transaction of this database is open, prepared ones and replication slots among them. Past some minutes it keeps vacuum from the queues: find it in pg_stat_activity. Since when is exact where mail_service was granted pg_read_all_stats; otherwise since this process first saw it.',
    labels: [],
    read: ({ oldest_transaction_age_s, held_s }) => [[Math.max(oldest_transaction_age_s, held_s)]],
  },
  {
    name: 'sluice_postgres_xmin_age_transactions',
    type: 'gauge',
    help: 'How many transactions ago the oldest snapshot is that vacuum must respect, by who holds it: a session, a prepared_transaction, a replication_slot (pg_replication_slots).',
    labels: ['holder'],
    read: ({ xmin_ages }) => HOLDERS.map((holder) => [xmin_ages[holder], holder]),
  },
  {
    name: 'sluice_postgres_connections',
    type: 'gauge',
    help: 'Connections to the whole server.',
    labels: [],
    read: ({ connections }) => [[connections]],
  },
  {
    name: 'sluice_postgres_connections_max',
    type: 'gauge',
    help: 'max_connections of the server. Processes × SLUICE_DATABASE_CONNECTIONS, and everybody else, must fit.',
    labels: [],
    read: ({ max_connections }) => [[max_connections]],
  },
  {
    name: 'sluice_postgres_table_live_rows',
    type: 'gauge',
    help: "Rows of a hot table with its partitions, by the server's own statistics.",
    labels: ['table'],
    read: ({ tables }) => tables.map(({ name, live_rows }) => [live_rows, name]),
  },
  {
    name: 'sluice_postgres_table_dead_rows',
    type: 'gauge',
    help: 'Rows that vacuum has still to remove. Growing for an hour: something holds it back (sluice_postgres_xmin_age_transactions), or autovacuum is too slow.',
    labels: ['table'],
    read: ({ tables }) => tables.map(({ name, dead_rows }) => [dead_rows, name]),
  },
]

export const SIZE_FAMILIES: readonly Family<Sizes>[] = [
  {
    name: 'sluice_postgres_table_size_bytes',
    type: 'gauge',
    help: 'Size of a hot table with its partitions, indexes and out-of-line values; up to two minutes old.',
    labels: ['table'],
    read: ({ tables }) => tables.map(({ name, bytes }) => [bytes, name]),
  },
  {
    name: 'sluice_postgres_database_size_bytes',
    type: 'gauge',
    help: 'Size of this database on disk; up to two minutes old.',
    labels: [],
    read: ({ database_bytes }) => [[database_bytes]],
  },
]
