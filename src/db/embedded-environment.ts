/**
 * Of every program that is started here. Nothing of ours, which holds keys and passwords: another user may run it, who could
 * read them. PGDATA, PGPORT and LC_ALL of the caller would also change what Postgres does.
 */
export const CHILD_ENV = { PATH: process.env.PATH ?? '/usr/bin:/bin', LC_ALL: 'C' }
