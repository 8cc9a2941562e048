import type { Config } from '../config.ts'
import type { Database } from '../db/pool.ts'
import type { Log } from '../log.ts'
import type { Metrics } from '../metrics/metrics.ts'
import { createServiceApp } from './app.ts'
import { type HttpServer, listen } from './server.ts'

export type MetricsServerDeps = {
  readonly config: Pick<Config, 'host' | 'metricsPort'>
  readonly db: Database
  readonly log: Log
  readonly metrics: Metrics
}

/** Where a process shows how it is doing beside the API, or without one; undefined unless SLUICE_METRICS_PORT is set. */
export async function openMetricsServer(deps: MetricsServerDeps): Promise<HttpServer | undefined> {
  const { config, db, log, metrics } = deps
  if (config.metricsPort === undefined) return undefined
  const app = createServiceApp({ db, log, metrics: () => metrics.scrape() })
  const server = await listen(app, { host: config.host, port: config.metricsPort })
  log.info({ url: server.url }, 'metrics are served')
  return server
}
