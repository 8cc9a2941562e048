import { resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { BENCHMARK_NAMES, BENCHMARKS, type BenchmarkName, isBenchmark, usualNames } from './benchmarks.ts'
import { BURST_MINUTES } from './burst.ts'
import type { BenchOptions, BurstOptions } from './report.ts'
import { FULL, QUICK, QUICK_BURST_SCALE } from './sizes.ts'

const MINUTES = usualNames().reduce((sum, name) => sum + BENCHMARKS[name].minutes, 0)

export const HELP = `Usage: npm run bench -- [names] [options]

Measures Sluice on this machine, over a Postgres of its own in a temporary directory. Without names all of them run but
those marked with *, which takes about ${MINUTES} minutes on two cores; with --quick, four.

${BENCHMARK_NAMES.map(helpLine).join('\n')}

  --quick         a little of each: whether it works, and in which region the figures are
  --messages N    messages of one turn of end-to-end [${FULL.messages}]
  --rounds N      rounds of end-to-end, large-mail and backlog [${FULL.rounds}]
  --seconds N     length of each case of accept, and of steady [${FULL.seconds}]
  --waiting N,N   how many wait in backlog [${FULL.waiting.join(',')}]
  --scale X       how much of burst: 0.01 is 3,000 orders in 2.4 s [1]
  --minutes N     over how long the orders of burst come [4 × scale]
  --door NAME     of burst's orders: rest, or sql (inserts into mail.outbox) [rest]
  --streams NAME  of burst: orders apart from resets, or together in one stream [apart]
  --workers N     worker processes of burst, beside one for the API [1]
  --json FILE     where the figures go [bench-results/bench.json]
  --plot FILE     where the plot goes, as SVG [bench-results/bench.svg]
  --record        write what was run into docs/performance.md, with this machine and today's date
  --profile DIR   write CPU profiles of the service there (it is slower then)
  --help          show this text

docs/performance.md says what each figure means. The exit code is 0 whatever the figures are, and 1 when
a message was lost, a provider's quota exceeded, or another promise broken.`

function helpLine(name: BenchmarkName): string {
  const { what, minutes } = BENCHMARKS[name]
  const mark = usualNames().includes(name) ? ' ' : '*'
  return `  ${`${name}${mark}`.padEnd(17)} ${what} (${minutes} min)`
}

export type Command = {
  readonly names: readonly BenchmarkName[]
  readonly options: BenchOptions
  readonly jsonFile: string
  readonly plotFile: string
  readonly isRecorded: boolean
}

/** What is to be done; a sentence when it cannot be understood, and `help` when that is wanted. */
export function readCommand(args: readonly string[]): Command | string | 'help' {
  let parsed: ReturnType<typeof parse>
  try {
    parsed = parse(args)
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  }
  const { values, positionals } = parsed
  if (values.help) return 'help'
  const unknown = positionals.filter((name) => !isBenchmark(name))
  if (unknown.length > 0) return `there is no benchmark ${unknown.join(', ')}`
  if (values.quick && values.record) return '--record is for figures worth keeping: without --quick'
  const burst = burstOptions(values)
  if (burst === undefined)
    return 'burst cannot be so: see --scale, --minutes, --door, --streams and --workers'
  const sizes = values.quick ? QUICK : FULL
  const waiting = values.waiting?.split(',').map(Number) ?? sizes.waiting
  const [messages, rounds, seconds] = (['messages', 'rounds', 'seconds'] as const).map((name) =>
    values[name] === undefined ? sizes[name] : Number(values[name]),
  )
  const counts = [messages, rounds, seconds, ...waiting]
  if (!counts.every(isCount)) return '--messages, --rounds, --seconds and --waiting are whole numbers from 1'
  const options = {
    ...sizes,
    messages: messages ?? 1,
    rounds: rounds ?? 1,
    seconds: seconds ?? 1,
    waiting: waiting.toSorted((a, b) => a - b),
    profileDir: values.profile === undefined ? undefined : resolve(values.profile),
    burst,
    say: (line: string) => console.error(line),
  }
  const names = positionals.length > 0 ? positionals.filter(isBenchmark) : usualNames()
  return { names, options, jsonFile: values.json, plotFile: values.plot, isRecorded: values.record }
}

function parse(args: readonly string[]) {
  return parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      quick: { type: 'boolean', default: false },
      messages: { type: 'string' },
      rounds: { type: 'string' },
      seconds: { type: 'string' },
      waiting: { type: 'string' },
      scale: { type: 'string' },
      minutes: { type: 'string' },
      door: { type: 'string', default: 'rest' },
      streams: { type: 'string', default: 'apart' },
      workers: { type: 'string', default: '1' },
      json: { type: 'string', default: 'bench-results/bench.json' },
      plot: { type: 'string', default: 'bench-results/bench.svg' },
      record: { type: 'boolean', default: false },
      profile: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  })
}

function isCount(number: number | undefined): boolean {
  return Number.isInteger(number) && (number ?? 0) > 0
}

/** Undefined when one of them makes no sense. */
function burstOptions(values: ReturnType<typeof parse>['values']): BurstOptions | undefined {
  const { door, streams } = values
  const scale = Number(values.scale ?? (values.quick ? QUICK_BURST_SCALE : 1))
  const workers = Number(values.workers)
  const minutes = values.minutes === undefined ? BURST_MINUTES * scale : Number(values.minutes)
  if (door !== 'rest' && door !== 'sql') return undefined
  if (streams !== 'apart' && streams !== 'together') return undefined
  const areSound =
    scale > 0 && scale <= 10 && minutes > 0 && minutes <= 60 && isCount(workers) && workers <= 8
  return areSound ? { scale, minutes, door, streams, workers } : undefined
}
