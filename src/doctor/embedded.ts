import { existsSync } from 'node:fs'
import { stat } from 'node:fs/promises'
import { resolve } from 'node:path'
import type { Config } from '../config.ts'
import { relocated } from '../db/embedded-account.ts'
import { filesOf, readConnection, urlOf } from '../db/embedded-cluster.ts'
import { findPostmaster } from '../db/embedded-postmaster.ts'
import { type Finding, ok, problem, skipped, warning } from './finding.ts'

const NAME = 'embedded Postgres'

/** Looks for the server that `start` would use, and neither makes nor starts one. */
export async function checkEmbedded({
  dataDir,
  isProduction,
}: Pick<Config, 'dataDir' | 'isProduction'>): Promise<{
  readonly findings: Finding[]
  /** Undefined when none is running. */
  readonly url: string | undefined
}> {
  const findings: Finding[] = []
  const notRunning = (finding: Finding) => ({ findings: [...findings, finding], url: undefined })
  if (isProduction) {
    const found = 'mail would be kept in a database of this directory, on this machine alone'
    findings.push(warning(NAME, found, 'set DATABASE_URL to a Postgres that is backed up'))
  }
  const wanted = resolve(dataDir)
  const found = [wanted, relocated(wanted)].map(filesOf).find(({ cluster }) => existsSync(cluster))
  if (found === undefined) return notRunning(skipped(NAME, `none in ${wanted} yet: the first start makes it`))
  const { cluster, dataDir: place } = found
  if (((await stat(cluster)).mode & 0o027) !== 0) {
    const open = `${cluster} may be read by other users of this machine: Postgres refuses to start with it`
    findings.push(problem(NAME, open, `chmod 700 ${cluster}`))
  }
  const connection = await readConnection(found)
  const running = findPostmaster(cluster)
  if (connection === undefined || running === undefined) {
    return notRunning(skipped(NAME, `the one in ${place} is not running; start Sluice, then look again`))
  }
  const port = running.port ?? connection.port
  findings.push(ok(NAME, `runs in ${place}, port ${port}`))
  return { findings, url: urlOf({ ...connection, port }) }
}
