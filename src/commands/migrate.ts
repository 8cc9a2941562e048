import type { Config } from '../config.ts'
import { migrate } from '../db/migrate.ts'
import { createLog } from '../log.ts'
import { withDatabase } from './with-database.ts'

/** `migrate`: brings the database to this version. */
export async function runMigrate(config: Config): Promise<number> {
  const log = createLog(config.logLevel)
  return withDatabase(config, log, async ({ sessionUrl }) => {
    const { applied } = await migrate({ url: sessionUrl, log })
    process.stdout.write(applied.length === 0 ? 'nothing to migrate\n' : `migrated: ${applied.join(', ')}\n`)
    return 0
  })
}
