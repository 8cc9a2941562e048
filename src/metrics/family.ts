import { Counter, Gauge, type Registry } from 'prom-client'

/** A value, and its labels in the order of the family's `labels`; null: not known now, and left out. */
export type Sample = readonly [value: number | null, ...labels: string[]]

/** A metric that is read from its source when it is scraped: nothing is kept, so nothing can be frozen. */
export type Family<Source> = {
  readonly name: string
  readonly type: 'counter' | 'gauge'
  readonly help: string
  readonly labels: readonly string[]
  read(source: Source): readonly Sample[]
}

/** While there is no source, its families have no samples: no number is better than an old one. */
export function register<Source>(
  registry: Registry,
  families: readonly Family<Source>[],
  source: () => Source | undefined,
): void {
  for (const { name, type, help, labels, read } of families) {
    const options = { name, help, labelNames: labels, registers: [registry] }
    const readNow = () => {
      const present = source()
      return (present === undefined ? [] : read(present)).filter(isKnown)
    }
    const labelled = (values: readonly string[]) =>
      Object.fromEntries(labels.map((label, index) => [label, values[index] ?? '']))
    if (type === 'counter') {
      const collect = (counter: Counter) => {
        empty(counter, labels)
        for (const [value, ...values] of readNow()) counter.inc(labelled(values), value)
      }
      const counter: Counter = new Counter({ ...options, collect: () => collect(counter) })
    } else {
      const collect = (gauge: Gauge) => {
        empty(gauge, labels)
        for (const [value, ...values] of readNow()) gauge.set(labelled(values), value)
      }
      const gauge: Gauge = new Gauge({ ...options, collect: () => collect(gauge) })
    }
  }
}

function isKnown(sample: Sample): sample is readonly [number, ...string[]] {
  return sample[0] !== null
}

/** A metric without labels is reset to 0, which would be a statement: that is removed as well. */
function empty(metric: Counter | Gauge, labels: readonly string[]): void {
  metric.reset()
  if (labels.length === 0) metric.remove()
}

/** One sample for each state that could be, 1 for the present one: what PromQL can count, average and compare. */
export function stateSet<State extends string>(
  states: readonly State[],
  present: State,
  ...labels: string[]
): Sample[] {
  return states.map((state) => [state === present ? 1 : 0, ...labels, state])
}
