import { figuresText, type Row, rowsTable } from './row.ts'

/** A row, when and where it was measured. */
export type Recorded = { readonly on: string; readonly machine: string; readonly row: Row }

const BEGIN = '<!-- figures: written by npm run test:failure -- --record -->'
const END = '<!-- end of figures -->'

/** The document with the figures between its two marks; all else in it is written by hand. */
export function guaranteesText(document: string, recorded: readonly Recorded[]): string {
  const [before, rest] = document.split(BEGIN)
  const after = rest?.split(END)[1]
  if (before === undefined || after === undefined)
    throw new Error(`docs/guarantees.md lacks "${BEGIN}" or "${END}"`)
  return `${before}${BEGIN}\n\n${figures(recorded)}\n\n${END}${after}`
}

function figures(recorded: readonly Recorded[]): string {
  const sessions = Map.groupBy(recorded, ({ on, machine }) => `${on}: ${machine.replaceAll('\n', ' ')}`)
  return [...sessions]
    .map(([where, own]) =>
      session(
        where,
        own.map(({ row }) => row),
      ),
    )
    .join('\n\n')
}

function session(where: string, rows: readonly Row[]): string {
  const notes = rows.map((row) => `- \`${row.run}\` (${minutes(row.tookS)}): ${figuresText(row)}`)
  return [`${where}`, '', rowsTable(rows), '', ...notes].join('\n')
}

function minutes(seconds: number): string {
  return seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`
}
