/** Where messages pass: a stage's queue. */
export type Flow = { readonly stage: string; readonly stream: string; readonly provider: string }
export type FlowCount = Flow & { readonly cameIn: number; readonly wentOut: number }

/** What is counted beside the flow through the stages; `mail.tally` says what each means. */
export const TALLY_KINDS = [
  'accepted',
  'processed',
  'sent',
  'deferred',
  'retried',
  'unknown',
  'dead',
  'suppressed',
  'request',
  'fault',
] as const
export type TallyKind = (typeof TALLY_KINDS)[number]
export const TIMED_KINDS = ['time_to_send', 'provider_latency'] as const
export type TimedKind = (typeof TIMED_KINDS)[number]

/** The provider is empty where none is chosen yet. */
export type Place = { readonly stream: string; readonly provider: string }
export type Tally = Place & { readonly kind: TallyKind; readonly count: number }
/** `bucket` is the index of the first bound that is greater, as width_bucket() has it. */
export type TimeTally = Place & {
  readonly kind: TimedKind
  readonly bucket: number
  readonly count: number
  readonly seconds: number
}

/** Upper bounds of the buckets in seconds: those of mail.time_bounds(), which a test compares. */
export const TIME_BOUNDS_S = [
  0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1_800, 3_600, 14_400, 86_400,
] as const

export type Measures = {
  readonly flows: readonly FlowCount[]
  readonly tallies: readonly Tally[]
  readonly times: readonly TimeTally[]
}

type Numbers = Record<string, number>

/** Sums by key, and how much of each was handed out already. */
class Sums<Key extends object, Sum extends Numbers> {
  readonly #entries = new Map<string, { key: Key; sum: Sum; told: Sum }>()
  readonly #zero: Sum

  constructor(zero: Sum) {
    this.#zero = zero
  }

  add(key: Key, amounts: Partial<Sum>): void {
    const name = Object.values(key).join('\u0000')
    let entry = this.#entries.get(name)
    if (entry === undefined) {
      entry = { key, sum: { ...this.#zero }, told: { ...this.#zero } }
      this.#entries.set(name, entry)
    }
    const sum: Numbers = entry.sum
    for (const [field, amount] of Object.entries(amounts)) sum[field] = (sum[field] ?? 0) + (amount ?? 0)
  }

  totals(): (Key & Sum)[] {
    return [...this.#entries.values()].map(({ key, sum }) => ({ ...key, ...sum }))
  }

  /** What came since the last change that was told; `told` makes it count as such. */
  changes(): { changes: (Key & Sum)[]; told: () => void } {
    const seen = [...this.#entries.values()].map((entry) => ({ entry, sum: { ...entry.sum } }))
    const changes = seen.flatMap(({ entry, sum }) => {
      const change = mapNumbers(sum, (value, field) => value - (entry.told[field] ?? 0))
      return Object.values(change).some((value) => value !== 0) ? [{ ...entry.key, ...change }] : []
    })
    const told = () => {
      for (const { entry, sum } of seen) entry.told = sum
    }
    return { changes, told }
  }
}

function mapNumbers<Sum extends Numbers>(sum: Sum, map: (value: number, field: string) => number): Sum {
  return Object.fromEntries(Object.entries(sum).map(([field, value]) => [field, map(value, field)])) as Sum
}

/**
 * Counts what this process does: sums since it started, which `/metrics` shows, and what has come since it was last
 * written to the database, where every process's counts meet.
 */
export class Meter {
  readonly #flows = new Sums<Flow, { cameIn: number; wentOut: number }>({ cameIn: 0, wentOut: 0 })
  readonly #tallies = new Sums<Place & { kind: TallyKind }, { count: number }>({ count: 0 })
  readonly #times = new Sums<Place & { kind: TimedKind; bucket: number }, { count: number; seconds: number }>(
    {
      count: 0,
      seconds: 0,
    },
  )

  cameIn({ stage, stream, provider }: Flow, messages: number): void {
    this.#flows.add({ stage, stream, provider }, { cameIn: messages })
  }

  wentOut({ stage, stream, provider }: Flow, messages: number): void {
    this.#flows.add({ stage, stream, provider }, { wentOut: messages })
  }

  happened(kind: TallyKind, { stream, provider }: Place, count: number): void {
    if (count > 0) this.#tallies.add({ stream, provider, kind }, { count })
  }

  took(kind: TimedKind, { stream, provider }: Place, seconds: number): void {
    const bound = TIME_BOUNDS_S.findIndex((each) => seconds < each)
    const bucket = bound === -1 ? TIME_BOUNDS_S.length : bound
    this.#times.add({ stream, provider, kind, bucket }, { count: 1, seconds: Math.max(seconds, 0) })
  }

  /** Since the process started. */
  totals(): Measures {
    return { flows: this.#flows.totals(), tallies: this.#tallies.totals(), times: this.#times.totals() }
  }

  /** Hands over what was not handed over yet; when `write` fails, it comes again with the next. */
  async tell(write: (measures: Measures) => Promise<void>): Promise<void> {
    const flows = this.#flows.changes()
    const tallies = this.#tallies.changes()
    const times = this.#times.changes()
    const measures = { flows: flows.changes, tallies: tallies.changes, times: times.changes }
    if (Object.values(measures).every((changes) => changes.length === 0)) return
    await write(measures)
    for (const { told } of [flows, tallies, times]) told()
  }
}
