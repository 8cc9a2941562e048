/** docs/monitoring/ is what Prometheus and Grafana take, and speaks of nothing that is not there. */
import assert from 'node:assert/strict'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { describeMetrics, withTables } from '../../scripts/metrics-table.ts'
import { createTestDatabase } from '../support/database.ts'
import { promtool, promtoolObstacle } from '../support/promtool.ts'
import { ALERT_CASES, type AlertCase } from './alert-cases.ts'
import { groupedBy, namedIn } from './promql.ts'

const DOCS = fileURLToPath(new URL('../../docs/', import.meta.url))
const RULES = join(DOCS, 'monitoring/alerts.yml')
const obstacle = promtoolObstacle()
const SKIP = obstacle === undefined ? {} : { skip: obstacle }

type Rule = {
  readonly alert: string
  readonly severity: string
  readonly expr: string
  readonly next: string
}

/** Of the YAML only what the file has: promtool reads the rest, and refuses what is not YAML. */
async function readRules(): Promise<Rule[]> {
  const [, ...blocks] = (await readFile(RULES, 'utf8')).split(/^ {6}- alert: /m)
  return blocks.map((block) => {
    const expr = /^ {8}expr: (?:\|\n((?: {10}.*\n)+)|(.*)\n)/m.exec(block)
    return {
      alert: block.slice(0, block.indexOf('\n')),
      severity: /severity: (\w+)/.exec(block)?.[1] ?? '',
      expr: expr?.[1] ?? expr?.[2] ?? '',
      next: /^ {10}next: (.*)$/m.exec(block)?.[1] ?? '',
    }
  })
}

type Panel = {
  readonly id: number
  readonly title: string
  readonly type: string
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number }
  readonly datasource?: { readonly uid: string }
  readonly targets?: readonly { readonly expr: string; readonly datasource: { readonly uid: string } }[]
}

async function readDashboard() {
  return JSON.parse(await readFile(join(DOCS, 'monitoring/grafana.json'), 'utf8')) as {
    readonly schemaVersion: number
    readonly panels: readonly Panel[]
    readonly templating: { readonly list: readonly { readonly name: string; readonly definition?: string }[] }
  }
}

/** By name, the labels of every series there is; scraping adds job and instance. */
function knownSeries(): Map<string, Set<string>> {
  const known = new Map([['up', new Set(['job', 'instance'])]])
  for (const { name, type, labels } of describeMetrics()) {
    const all = new Set([...labels, 'job', 'instance'])
    const isHistogram = type === 'histogram'
    for (const suffix of isHistogram ? ['_sum', '_count'] : ['']) known.set(`${name}${suffix}`, all)
    if (isHistogram) known.set(`${name}_bucket`, new Set([...all, 'le']))
  }
  return known
}

function faultsOf(expression: string, known: ReadonlyMap<string, ReadonlySet<string>>): string[] {
  const { metrics, labels } = namedIn(expression)
  const unknown = [...metrics].filter((name) => !known.has(name)).map((name) => `there is no ${name}`)
  const wrong = [...labels].flatMap(([name, used]) =>
    [...used]
      .filter((label) => known.get(name)?.has(label) === false)
      .map((label) => `${name} has no ${label}`),
  )
  const ofAny = new Set([...metrics].flatMap((name) => [...(known.get(name) ?? [])]))
  const ungrouped = groupedBy(expression).filter((label) => !ofAny.has(label))
  return [...unknown, ...wrong, ...ungrouped.map((label) => `nothing here has ${label} in ${expression}`)]
}

test('expressions are read: their metrics, matchers and groupings', () => {
  const expression = `histogram_quantile(0.9, sum by (le, stream) (rate(a_bucket{x="}b",y!~"c"}[5m:1m] offset 1h))) > on (stream) group_left () 2e3 * b_total unless c{z=""}`
  const { metrics, labels } = namedIn(expression)
  assert.deepEqual([...metrics], ['a_bucket', 'b_total', 'c'])
  assert.deepEqual(Object.fromEntries([...labels].map(([name, used]) => [name, [...used]])), {
    a_bucket: ['x', 'y'],
    c: ['z'],
  })
  assert.deepEqual(groupedBy(expression), ['le', 'stream', 'stream'])
  const known = new Map([['a', new Set(['x'])]])
  assert.deepEqual(faultsOf('sum by (y) (a{z="1"} / b)', known), [
    'there is no b',
    'a has no z',
    'nothing here has y in sum by (y) (a{z="1"} / b)',
  ])
})

test('alerts and panels name only metrics and labels that exist', async () => {
  const known = knownSeries()
  const rules = await readRules()
  assert.ok(rules.length >= 25)
  const { panels, templating } = await readDashboard()
  const expressions = [
    ...rules.map(({ expr }) => expr),
    ...panels.flatMap(({ targets = [] }) => targets.map(({ expr }) => expr)),
  ]
  assert.ok(expressions.every((expr) => expr !== ''))
  assert.deepEqual(
    expressions.flatMap((expr) => faultsOf(expr, known)),
    [],
  )
  for (const { definition } of templating.list) {
    const [, metric = '', label = ''] = /^label_values\((\w+), (\w+)\)$/.exec(definition ?? '') ?? []
    if (definition !== undefined) assert.ok(known.get(metric)?.has(label), definition)
  }
})

test('the dashboard is one of Grafana: a data source to choose, ids of its own, panels beside each other', async () => {
  const { schemaVersion, panels, templating } = await readDashboard()
  assert.ok(schemaVersion >= 36)
  assert.equal(templating.list[0]?.name, 'datasource')
  assert.equal(new Set(panels.map(({ id }) => id)).size, panels.length)
  for (const { type, title, datasource, targets = [] } of panels) {
    if (type === 'row') continue
    assert.ok(targets.length > 0, title)
    for (const each of [datasource, ...targets.map((target) => target.datasource)])
      assert.equal(each?.uid, '$' + '{datasource}', title)
  }
  for (const [index, { title, gridPos: a }] of panels.entries()) {
    assert.ok(a.x + a.w <= 24, title)
    const under = panels
      .slice(index + 1)
      .find(({ gridPos: b }) => a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h)
    assert.equal(under, undefined, `${title} lies over ${under?.title}`)
  }
})

test('the next command of every alert runs in psql', async (t) => {
  const database = await createTestDatabase(t)
  const commands = (await readRules()).map(({ next }) => next)
  assert.deepEqual(
    commands.filter((next) => next.length < 10),
    [],
  )
  const queries = commands.filter((next) => next.startsWith('select '))
  assert.ok(queries.length > 20)
  for (const query of queries) await database.query(query)
})

test('promtool takes the rules and the configuration', SKIP, async () => {
  await promtool(['check', 'rules', '--lint=all', '--lint-fatal', RULES])
  await promtool(['check', 'config', join(DOCS, 'monitoring/prometheus.yml')])
})

/** JSON is YAML: a file for `promtool test rules`. */
function ruleTests(rules: readonly Rule[]): object {
  const series = (values: AlertCase['fires']) =>
    Object.entries(values).map(([name, value]) => ({ series: name, values: value }))
  return {
    rule_files: [RULES],
    evaluation_interval: '1m',
    tests: rules.flatMap(({ alert, severity }) => {
      const { fires, quiet, at, labels = {} } = ALERT_CASES[alert] ?? assert.fail(`${alert} has no case`)
      const firing = `ALERTS{alertname="${alert}",alertstate="firing"}`
      const all = { alertname: alert, alertstate: 'firing', severity, ...labels }
      const printed = Object.entries(all).map(([name, value]) => `${name}="${value}"`)
      const sample = { labels: `ALERTS{${printed.join(',')}}`, value: 1 }
      const expectations = [
        { name: `${alert} fires`, values: fires, samples: [sample] },
        { name: `${alert} is quiet`, values: quiet, samples: [] },
      ]
      return expectations.map(({ name, values, samples }) => ({
        name,
        interval: '1m',
        input_series: series(values),
        promql_expr_test: [{ expr: firing, eval_time: `${at}m`, exp_samples: samples }],
      }))
    }),
  }
}

test('every alert fires when it should, and not when it only nearly should', SKIP, async (t) => {
  const rules = await readRules()
  assert.deepEqual(Object.keys(ALERT_CASES).sort(), rules.map(({ alert }) => alert).sort())
  const dir = await mkdtemp(join(tmpdir(), 'sluice-alerts-'))
  t.after(() => rm(dir, { recursive: true, force: true }))
  const file = join(dir, 'alerts.test.json')
  await writeFile(file, JSON.stringify(ruleTests(rules)))
  await promtool(['test', 'rules', file])
})

test('docs/monitoring.md has every metric as it is registered', async () => {
  const page = await readFile(join(DOCS, 'monitoring.md'), 'utf8')
  assert.ok(page === withTables(page), 'run npm run metrics:write, and look at the diff')
})
