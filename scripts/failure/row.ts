import { percentile, readable, table } from '../bench/statistics.ts'
import { judge, type Outcome } from './run.ts'

/** What is kept of a run: its row, and what else it says. */
export type Row = {
  readonly run: string
  readonly attempted: number
  readonly acknowledged: number
  readonly delivered: number
  readonly lost: number
  readonly duplicated: number
  readonly unexpected: number
  readonly recovered: number
  readonly longestGapS: number
  readonly recoveryS: { readonly p50: number; readonly p95: number; readonly max: number } | null
  readonly figures: Readonly<Record<string, number | string>>
  readonly broken: readonly string[]
  readonly tookS: number
}

export function rowOf(run: string, outcome: Outcome, tookS: number): Row {
  const { verdict, recoveriesS, longestGapS, figures } = outcome
  return {
    run,
    ...verdict,
    lost: verdict.lost.length,
    unexpected: verdict.unexpected.length,
    longestGapS,
    recoveryS:
      recoveriesS.length === 0
        ? null
        : {
            p50: percentile(recoveriesS, 50),
            p95: percentile(recoveriesS, 95),
            max: Math.max(...recoveriesS),
          },
    figures,
    broken: judge(outcome),
    tookS,
  }
}

const HEADINGS = [
  'run',
  'attempted',
  'acknowledged',
  'delivered',
  'lost',
  'duplicated',
  'unexpected',
  'recovered',
  'longest gap s',
  'recovery s p50 / p95 / max',
]

/** Rows as a Markdown table, in Jepsen's words. */
export function rowsTable(rows: readonly Row[]): string {
  const whole = (count: number) => count.toLocaleString('en-US')
  return table(
    HEADINGS,
    rows.map((row) => [
      row.run,
      whole(row.attempted),
      whole(row.acknowledged),
      whole(row.delivered),
      whole(row.lost),
      whole(row.duplicated),
      whole(row.unexpected),
      whole(row.recovered),
      readable(row.longestGapS),
      row.recoveryS === null ? '-' : Object.values(row.recoveryS).map(readable).join(' / '),
    ]),
  )
}

/** What else a run measured, as one line. */
export function figuresText({ figures }: Row): string {
  return Object.entries(figures)
    .map(([name, value]) => `${name}: ${typeof value === 'number' ? shortest(value) : value}`)
    .join(', ')
}

function shortest(value: number): string {
  return Number.isInteger(value) ? value.toLocaleString('en-US') : readable(value)
}
