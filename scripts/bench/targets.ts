import { readable, table } from './statistics.ts'

type Bound = {
  readonly what: string
  readonly bound: 'at least' | 'at most'
  readonly limit: number
  readonly unit: string
  /** Which benchmark finds it out, or what else. */
  readonly from: string
}

/** What Sluice is meant to reach on two cores. */
export const TARGETS = {
  queues: {
    what: 'end to end, ratio to the best of the other queues',
    bound: 'at least',
    limit: 2,
    unit: '×',
    from: 'end-to-end',
  },
  bareLoop: {
    what: 'end to end, ratio to a bare nodemailer loop',
    bound: 'at least',
    limit: 1.5,
    unit: '×',
    from: 'end-to-end',
  },
  idleMedian: { what: 'idle, POST to SMTP, p50', bound: 'at most', limit: 10, unit: 'ms', from: 'idle' },
  idleSlow: { what: 'idle, POST to SMTP, p99', bound: 'at most', limit: 40, unit: 'ms', from: 'idle' },
  acceptance: {
    what: 'durable REST acceptance, 64 connections',
    bound: 'at least',
    limit: 5_000,
    unit: '/s',
    from: 'accept',
  },
  steadyAnswer: {
    what: 'durable answer at 1,250/s with workers, p99',
    bound: 'at most',
    limit: 50,
    unit: 'ms',
    from: 'steady',
  },
  burstLost: { what: 'flash sale, lost', bound: 'at most', limit: 0, unit: 'mails', from: 'burst' },
  burstResets: {
    what: 'flash sale, password resets sent, p99',
    bound: 'at most',
    limit: 1_000,
    unit: 'ms',
    from: 'burst',
  },
  backlog: {
    what: 'dispatch with 1,000,000 waiting, ratio to 10,000',
    bound: 'at least',
    limit: 0.9,
    unit: '×',
    from: 'backlog',
  },
  workerKilled: {
    what: 'a worker killed, its messages move again, p95',
    bound: 'at most',
    limit: 10,
    unit: 's',
    from: 'npm run test:failure -- workers-killed --record',
  },
  memory: {
    what: 'memory of a process under load, highest',
    bound: 'at most',
    limit: 300,
    unit: 'MB',
    from: 'any benchmark',
  },
  quota: {
    what: "mails in any second, a provider's quota being 100",
    bound: 'at most',
    limit: 100,
    unit: '/s',
    from: 'pacing',
  },
  share: {
    what: 'pacing, average off the set share',
    bound: 'at most',
    limit: 1,
    unit: '%',
    from: 'pacing',
  },
} as const satisfies Readonly<Record<string, Bound>>
export type TargetName = keyof typeof TARGETS

/** `of` says how much was measured, and where, so that a small run does not look like the whole. */
export type Measured = { readonly value: number; readonly of: string }
export type MeasuredTargets = Readonly<Partial<Record<TargetName, Measured>>>

/** What several benchmarks measured: the last of each, and of memory the highest. */
export function mergeMeasured(all: readonly MeasuredTargets[]): MeasuredTargets {
  const [highest] = all
    .flatMap(({ memory }) => memory ?? [])
    .filter(({ value }) => !Number.isNaN(value))
    .toSorted((a, b) => b.value - a.value)
  return Object.assign({}, ...all, highest === undefined ? {} : { memory: highest })
}

/** One row for each target, in their order, measured or not. */
export function targetsTable(measured: MeasuredTargets): string {
  return table(
    ['target', 'wanted', 'measured', '', 'of'],
    Object.entries<Bound>(TARGETS).map(([name, target]) => {
      const { what, bound, limit, unit, from } = target
      const found = measured[name as TargetName]
      const wanted = `${bound} ${shortest(limit)} ${unit}`
      if (found === undefined || Number.isNaN(found.value)) return [what, wanted, '-', 'not run', from]
      return [
        what,
        wanted,
        `${shortest(found.value)} ${unit}`,
        isMet(target, found) ? 'met' : 'missed',
        found.of,
      ]
    }),
  )
}

function isMet({ bound, limit }: Bound, { value }: Measured): boolean {
  return bound === 'at least' ? value >= limit : value <= limit
}

function shortest(value: number): string {
  return Number.isInteger(value) ? value.toLocaleString('en-US') : readable(value)
}
