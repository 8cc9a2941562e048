import { Client } from 'pg'
import type { TestDatabase } from './database.ts'
import { eventually } from './eventually.ts'

const WAITING = `from pg_stat_activity
  where datname = current_database() and application_name = 'sluice migrate' and query ~ 'pg_try_advisory_lock'`

/** A session that has the turn to migrate and keeps it, so that whoever else starts to migrate waits. */
export async function stallMigrations(database: TestDatabase) {
  const holder = new Client({ connectionString: database.url })
  await holder.connect()
  database.beforeDrop(() => holder.end())
  await holder.query("select pg_advisory_lock(hashtextextended('mail.migrate', 0))")
  const someRow = (statement: string) => async () => (await database.query(statement)).length > 0
  return {
    untilOneWaits: () => eventually('a migration waits', someRow(`select ${WAITING}`)),
    untilOneIsCutOff: () =>
      eventually('a waiting migration is cut off', someRow(`select pg_terminate_backend(pid) ${WAITING}`)),
  }
}
