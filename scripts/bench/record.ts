import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import { BENCHMARK_NAMES } from './benchmarks.ts'
import { type PerformanceRecord, performanceText, type Recorded } from './performance-document.ts'
import { plotText } from './plot.ts'
import { recoveryOfWorkers } from './recovery.ts'
import { mergeMeasured } from './targets.ts'

const pathOf = (name: string) => fileURLToPath(new URL(`../../docs/${name}`, import.meta.url))
export const DOCUMENT = pathOf('performance.md')
const FIGURES = pathOf('performance.json')
const PLOT = pathOf('images/performance.svg')

/** Puts each in the place of what its benchmark had before, and document and plot in step with that. */
export function record(measured: readonly Recorded[]): void {
  const known = new Map(readRecord().benchmarks.map((each) => [each.name, each]))
  for (const each of measured) known.set(each.name, each)
  const benchmarks = BENCHMARK_NAMES.flatMap((name) => known.get(name) ?? [])
  const targets = mergeMeasured([...benchmarks.map((each) => each.measured), recoveryOfWorkers()])
  writeInto(FIGURES, `${JSON.stringify({ targets, benchmarks } satisfies PerformanceRecord, null, 2)}\n`)
  writeInto(DOCUMENT, performanceText(readFileSync(DOCUMENT, 'utf8'), { targets, benchmarks }))
  writeInto(PLOT, plotText(benchmarks.flatMap(({ plot }) => plot ?? [])))
}

export function readRecord(): PerformanceRecord {
  return existsSync(FIGURES)
    ? (JSON.parse(readFileSync(FIGURES, 'utf8')) as PerformanceRecord)
    : { targets: {}, benchmarks: [] }
}

/** Its directory is made if it is not there. */
export function writeInto(file: string, text: string): void {
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(file, text)
}
