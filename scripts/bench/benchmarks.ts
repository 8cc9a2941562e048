import { accept } from './accept.ts'
import { backlog } from './backlog.ts'
import { burst } from './burst.ts'
import { endToEnd, endToEndLong } from './end-to-end.ts'
import { footprint } from './footprint.ts'
import { httpProvider } from './http-provider.ts'
import { idle } from './idle.ts'
import { largeMail } from './large-mail.ts'
import { pacing } from './pacing.ts'
import type { BenchOptions, Findings } from './report.ts'
import type { Rig } from './rig.ts'
import { steady } from './steady.ts'

export type Benchmark = {
  readonly what: string
  /** On two cores, in full. */
  readonly minutes: number
  /** Runs only when it is named. */
  readonly isExtra?: boolean
  run(rig: Rig, options: BenchOptions): Promise<Findings>
}

/** Every benchmark, in the order in which they run and are documented. */
export const BENCHMARKS = {
  'end-to-end': {
    what: 'orders from a SQL insert to the sink: Sluice, BullMQ, graphile-worker, pg-boss, and a bare loop',
    minutes: 8,
    run: endToEnd,
  },
  'end-to-end-long': {
    what: 'the same with 100,000 messages, once',
    minutes: 25,
    isExtra: true,
    run: endToEndLong,
  },
  idle: { what: 'one mail at a time, from the request to acceptance by the sink', minutes: 1, run: idle },
  accept: { what: 'mails accepted a second, REST and SQL, 1 to 256 connections', minutes: 9, run: accept },
  steady: { what: 'durable answers at 1,250 requests a second while workers send', minutes: 1, run: steady },
  backlog: {
    what: 'sending while ten thousand, a hundred thousand and a million wait',
    minutes: 20,
    run: backlog,
  },
  pacing: {
    what: "one to four worker processes on one token bucket, against a provider's quota",
    minutes: 2,
    run: pacing,
  },
  'large-mail': { what: 'mails of 100 KB from a SQL insert to the sink', minutes: 2, run: largeMail },
  'http-provider': {
    what: "a provider's HTTP API, one mail a request and in batches",
    minutes: 2,
    run: httpProvider,
  },
  footprint: { what: 'memory, database and WAL of a message, and of a million', minutes: 1, run: footprint },
  burst: {
    what: '300,000 orders in four minutes with a password reset each second, then ten times the normal rate',
    minutes: 10,
    run: burst,
  },
} as const satisfies Readonly<Record<string, Benchmark>>
export type BenchmarkName = keyof typeof BENCHMARKS

export const BENCHMARK_NAMES = Object.keys(BENCHMARKS) as BenchmarkName[]

export function isBenchmark(name: string): name is BenchmarkName {
  return name in BENCHMARKS
}

/** What runs without a name. */
export function usualNames(): BenchmarkName[] {
  return BENCHMARK_NAMES.filter((name) => !('isExtra' in BENCHMARKS[name]))
}
