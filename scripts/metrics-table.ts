import type { Database } from '../src/db/pool.ts'
import { createLog } from '../src/log.ts'
import { Meter } from '../src/meter.ts'
import { createMetrics, SYSTEM_WIDE } from '../src/metrics/metrics.ts'

export type MetricDescription = {
  readonly name: string
  readonly type: string
  readonly help: string
  readonly labels: readonly string[]
}

/** Every metric, as the registry of a process has it. Nothing is scraped, so there is nothing behind it. */
export function describeMetrics(): MetricDescription[] {
  const { registry } = createMetrics({
    db: {} as Database,
    log: createLog('silent'),
    meter: new Meter(),
    catalog: { current: { streams: new Map(), providers: new Map(), domainLimits: [] } },
    pool: { totalCount: 0, idleCount: 0, waitingCount: 0 },
    config: { roles: new Set(), databaseConnections: 0 },
    slots: () => [],
    pressure: () => undefined,
  })
  // What prom-client keeps of a metric, and does not declare.
  const metrics = registry.getMetricsAsArray() as unknown as (MetricDescription & { labelNames: string[] })[]
  return metrics.map(({ name, type, help, labelNames }) => ({ name, type, help, labels: labelNames }))
}

const BEGIN = '<!-- made by npm run metrics:write -->'
const END = '<!-- end -->'

/** The page with its tables as the registry makes them now. */
export function withTables(page: string): string {
  const [before, rest] = page.split(BEGIN)
  const after = rest?.split(END)[1]
  if (before === undefined || after === undefined) throw new Error(`the page lacks ${BEGIN} or ${END}`)
  return `${before}${BEGIN}\n\n${tables()}\n${END}${after}`
}

function tables(): string {
  const own = describeMetrics().filter(({ name }) => name.startsWith('sluice_'))
  return [
    '### Of the whole system',
    table(own.filter(({ name }) => SYSTEM_WIDE.has(name))),
    '### Of one process',
    table(own.filter(({ name }) => !SYSTEM_WIDE.has(name))),
  ].join('\n\n')
}

function table(metrics: readonly MetricDescription[]): string {
  const lines = metrics.map(
    ({ name, type, help, labels }) => `| \`${name}\` | ${type} | ${labels.join(', ')} | ${help} |`,
  )
  return ['| metric | type | labels | |', '|---|---|---|---|', ...lines].join('\n')
}
