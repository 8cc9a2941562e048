import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { Guard } from '../bench/guard.ts'
import { loadOfOthers } from '../bench/machine.ts'
import { Ledger } from './ledger.ts'
import { record } from './record.ts'
import { figuresText, type Row, rowOf, rowsTable } from './row.ts'
import type { FailureRun, Form } from './run.ts'
import { RUNS } from './runs.ts'
import { performRun } from './scene.ts'

const HELP = `Usage: npm run test:failure -- [names] [options]

Breaks things under Sluice and counts what becomes of the mail. Each run prints a row in the words of Jepsen's
queue checker, and the exit code is 1 when a promise is broken. Nothing outside its own temporary directories,
ports and network namespaces is touched.

${RUNS.map(({ name, promise }) => `  ${name.padEnd(22)} ${promise}`).join('\n')}

  --short           the size that is part of npm test
  --budget MINUTES  begin no run that might not end within so many minutes in all [240]
  --json FILE       write the rows there as well
  --record          put the rows, with this machine's description, into docs/guarantees.md (full runs only)
  --list            print the names only
  --help            show this text`

const EXIT_USAGE = 64

type Options = {
  readonly form: Form
  readonly budgetMinutes: number
  readonly json: string | undefined
  readonly isRecorded: boolean
}

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      short: { type: 'boolean', default: false },
      budget: { type: 'string', default: '240' },
      json: { type: 'string' },
      record: { type: 'boolean', default: false },
      list: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  })
  if (values.help || values.list) {
    console.log(values.help ? HELP : RUNS.map(({ name }) => name).join('\n'))
    return 0
  }
  const unknown = positionals.filter((name) => !RUNS.some((run) => run.name === name))
  const budgetMinutes = Number(values.budget)
  if (unknown.length > 0 || !(budgetMinutes > 0)) {
    console.error(`unknown: ${unknown.join(', ') || `a budget of ${values.budget} minutes`}\n\n${HELP}`)
    return EXIT_USAGE
  }
  const chosen = RUNS.filter(({ name }) => positionals.length === 0 || positionals.includes(name))
  return performAll(chosen, {
    form: values.short ? 'short' : 'full',
    budgetMinutes,
    json: values.json,
    isRecorded: values.record && !values.short,
  })
}

async function performAll(runs: readonly FailureRun[], options: Options): Promise<number> {
  const interruption = new AbortController()
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => interruption.abort())
  const guard = new Guard()
  const loadBefore = loadOfOthers()
  const rows: Row[] = []
  const leftOut: string[] = []
  for (const run of runs) {
    const missing = run.missing() ?? overBudget(run, options)
    if (missing !== undefined || interruption.signal.aborted) {
      leftOut.push(`${run.name} was left out: ${missing ?? 'interrupted'}`)
      continue
    }
    rows.push(await performOne(run, options.form, guard, interruption.signal))
    // What was interrupted has found out nothing.
    if (options.isRecorded && !interruption.signal.aborted) await record(rows.slice(-1), loadBefore)
    if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify(rows, null, 2)}\n`)
  }
  console.log(`\n${rowsTable(rows)}\n`)
  for (const row of rows) console.log(`${row.run}: ${figuresText(row)}`)
  for (const sentence of leftOut) console.log(sentence)
  const broken = rows.flatMap((row) => row.broken.map((sentence) => `${row.run}: ${sentence}`))
  for (const sentence of broken) console.error(`BROKEN  ${sentence}`)
  return broken.length > 0 || interruption.signal.aborted ? 1 : 0
}

function overBudget({ limitMinutes }: FailureRun, { form, budgetMinutes }: Options): string | undefined {
  const leftMinutes = budgetMinutes - process.uptime() / 60
  if (form === 'short' || limitMinutes <= leftMinutes) return undefined
  return `it may take ${limitMinutes} minutes, and ${Math.max(0, Math.floor(leftMinutes))} are left`
}

async function performOne(run: FailureRun, form: Form, guard: Guard, signal: AbortSignal): Promise<Row> {
  const startedAt = performance.now()
  const say = (line: string) => console.error(`  ${line}`)
  console.error(`${run.name}: ${run.promise}`)
  const outcome = await performRun(run, form, { guard, say, signal }).catch((error: Error) => ({
    verdict: new Ledger().verdict(),
    longestGapS: 0,
    recoveriesS: [],
    figures: {},
    broken: [error.stack ?? error.message],
  }))
  const row = rowOf(run.name, outcome, (performance.now() - startedAt) / 1_000)
  console.error(rowsTable([row]))
  for (const sentence of row.broken) console.error(`BROKEN  ${sentence}`)
  return row
}

// A run that did not end in time may still be waiting for something.
process.exit(await main())
