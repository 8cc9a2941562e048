import type { BenchmarkName } from './benchmarks.ts'
import type { PlotData } from './plot.ts'
import { type MeasuredTargets, targetsTable } from './targets.ts'

/** What is kept of a benchmark: its words, when and where it was measured. */
export type Recorded = {
  readonly name: BenchmarkName
  readonly on: string
  readonly machine: string
  readonly tookS: number
  readonly text: string
  readonly measured: MeasuredTargets
  readonly plot?: PlotData
}

/** `targets` as they were when the last benchmark was recorded, that of the failure runs among them. */
export type PerformanceRecord = {
  readonly targets: MeasuredTargets
  readonly benchmarks: readonly Recorded[]
}

const BEGIN = '<!-- figures: written by npm run bench -- --record -->'
const END = '<!-- end of figures -->'
const PLOT =
  '![Mails a second of each contender, and the time until an answer by number of clients](images/performance.svg)'

/** The document with the figures between its two marks; all else in it is written by hand. */
export function performanceText(document: string, record: PerformanceRecord): string {
  const [before, rest] = document.split(BEGIN)
  const after = rest?.split(END)[1]
  if (before === undefined || after === undefined)
    throw new Error(`docs/performance.md lacks "${BEGIN}" or "${END}"`)
  return `${before}${BEGIN}\n\n${figures(record)}\n\n${END}${after}`
}

function figures({ targets, benchmarks }: PerformanceRecord): string {
  if (benchmarks.length === 0) return 'None are recorded: `npm run bench` shows those of your machine.'
  const hasPlot = benchmarks.some(({ plot }) => plot !== undefined)
  return [targetsTable(targets), ...(hasPlot ? [PLOT] : []), ...benchmarks.map(section)].join('\n\n')
}

function section({ name, on, machine, tookS, text }: Recorded): string {
  const minutes = tookS < 90 ? `${tookS} s` : `${Math.round(tookS / 60)} min`
  return `### ${name}\n\nOn ${on}, in ${minutes}. ${machine.replaceAll('\n', ' ')}\n\n${text}`
}
