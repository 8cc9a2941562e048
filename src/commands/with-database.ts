import type { Config } from '../config.ts'
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../db/embedded.ts'
import type { Log } from '../log.ts'

/** Runs `work` against the configured database, or the embedded one for as long as it takes. */
export async function withDatabase(
  config: Config,
  log: Log,
  work: (database: { url: string; embedded: boolean }) => Promise<number>,
): Promise<number> {
  if (config.databaseUrl !== undefined) return work({ url: config.databaseUrl, embedded: false })
  const postgres: EmbeddedPostgres = await startEmbeddedPostgres({
    dataDir: config.dataDir,
    dataDirIsExplicit: config.dataDirIsExplicit,
    log,
  })
  try {
    return await work({ url: postgres.url, embedded: true })
  } finally {
    await postgres.stop()
  }
}
