import { Histogram } from 'prom-client'

/** How many values fell into each bucket (the last one has no bound), and the sum of the values. */
export type Distribution = {
  readonly labels: Readonly<Record<string, string>>
  readonly counts: readonly number[]
  readonly sum: number
}

export type CountedHistogramOptions = {
  readonly name: string
  readonly help: string
  readonly labelNames: readonly string[]
  readonly bounds: readonly number[]
  readonly registers: ConstructorParameters<typeof Histogram>[0]['registers']
  readonly read: () => readonly Distribution[]
}

/** A histogram of what was counted in buckets elsewhere: observing it here as well would cost the hot path twice. */
export class CountedHistogram extends Histogram {
  readonly #options: CountedHistogramOptions

  constructor(options: CountedHistogramOptions) {
    const { name, help, labelNames, bounds, registers = [] } = options
    super({ name, help, labelNames, registers, buckets: [...bounds] })
    this.#options = options
  }

  /** What the registry asks for, by prom-client's own name; get() is made of it as well. */
  async getForPromString() {
    const { name, help, read } = this.#options
    const values = read().flatMap((each) => this.#linesOf(each))
    return { name, help, type: 'histogram', aggregator: 'sum', values }
  }

  #linesOf({ labels, counts, sum }: Distribution) {
    const { name, bounds } = this.#options
    let below = 0
    const buckets = [...bounds, '+Inf'].map((le, index) => {
      below += counts[index] ?? 0
      return { metricName: `${name}_bucket`, sharedLabels: labels, labels: { le }, value: below }
    })
    return [
      ...buckets,
      { metricName: `${name}_sum`, sharedLabels: labels, labels: {}, value: sum },
      { metricName: `${name}_count`, sharedLabels: labels, labels: {}, value: below },
    ]
  }
}
