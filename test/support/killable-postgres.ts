import assert from 'node:assert/strict'
import { Client, type QueryResultRow } from 'pg'
import { startTestPostgres, startTestPostgresIn } from './database.ts'
import type { Scope } from './scope.ts'
import { type SpawnedService, spawnService } from './service.ts'

export type KillablePostgres = Awaited<ReturnType<typeof startTestPostgres>> & {
  query<Row extends QueryResultRow>(text: string, values?: unknown[]): Promise<Row[]>
}

/** A server of this test's own; queries reject while it is away. */
export async function startKillablePostgres(
  t: Scope,
  settings: Record<string, string> = {},
): Promise<KillablePostgres> {
  return queryable(await startTestPostgres(t, settings))
}

/** The same on a data directory that is there already, such as a restored one. */
export async function startKillableIn(
  t: Scope,
  dataDir: string,
  options: Parameters<typeof startTestPostgresIn>[2] = {},
): Promise<KillablePostgres> {
  return queryable(await startTestPostgresIn(t, dataDir, options))
}

function queryable(server: Awaited<ReturnType<typeof startTestPostgres>>): KillablePostgres {
  const query = async <Row extends QueryResultRow>(text: string, values?: unknown[]) => {
    const client = new Client({ connectionString: server.url })
    // Killed under us as well; the query itself then says so.
    client.on('error', () => client.end())
    await client.connect()
    try {
      return (await client.query<Row>(text, values)).rows
    } finally {
      await client.end()
    }
  }
  return { ...server, query }
}

/** The API and a worker, each a process of its own that has to live through whatever happens to Postgres. */
export async function spawnBoth(t: Scope, url: string, smtpUrl: string) {
  const environment = { SMTP_URL: smtpUrl, SLUICE_ACCEPT_TIMEOUT_MS: '2000' }
  const api = await spawnService(t, url, { ...environment, SLUICE_ROLES: 'api' })
  const worker = await spawnService(t, url, { ...environment, SLUICE_ROLES: 'worker' })
  return { api, worker }
}

export function assertAlive(...services: SpawnedService[]): void {
  for (const each of services)
    assert.deepEqual([each.process.exitCode, each.process.signalCode], [null, null])
}
