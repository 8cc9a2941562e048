import type { Config } from '../config.ts'
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../db/embedded.ts'
import type { Log } from '../log.ts'

export type ReachedDatabase = {
  readonly url: string
  /** For what needs a session; another URL than the one above where that is a pooler's. */
  readonly sessionUrl: string
  readonly embedded: boolean
}

/** Runs `work` against the configured database, or the embedded one for as long as it takes. */
export async function withDatabase(
  config: Config,
  log: Log,
  work: (database: ReachedDatabase) => Promise<number>,
): Promise<number> {
  const { databaseUrl: url, sessionDatabaseUrl } = config
  if (url !== undefined) return work({ url, sessionUrl: sessionDatabaseUrl ?? url, embedded: false })
  const postgres: EmbeddedPostgres = await startEmbeddedPostgres({
    dataDir: config.dataDir,
    dataDirIsExplicit: config.dataDirIsExplicit,
    log,
  })
  try {
    return await work({ url: postgres.url, sessionUrl: postgres.url, embedded: true })
  } finally {
    await postgres.stop()
  }
}
