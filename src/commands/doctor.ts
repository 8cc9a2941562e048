import { parseArgs } from 'node:util'
import { examine } from '../doctor/examine.ts'
import { reportText } from '../doctor/report.ts'
import { EXIT_FAILURE, UsageError } from './exit.ts'

export const DOCTOR_USAGE = `  npm start -- doctor              look at the whole set-up, change nothing, and say what to do
    [--json]                         for programs: a list of {name, verdict, found, advice}
`

/** `doctor`: 0 when there is no problem, 1 otherwise. Warnings are for people. */
export async function runDoctor(args: readonly string[]): Promise<number> {
  const { json, help } = readOptions(args)
  if (help) {
    process.stdout.write(DOCTOR_USAGE)
    return 0
  }
  const findings = await examine(process.env)
  const isColoured = process.stdout.isTTY === true && !process.env.NO_COLOR
  process.stdout.write(json ? `${JSON.stringify(findings, null, 2)}\n` : reportText(findings, { isColoured }))
  return findings.some(({ verdict }) => verdict === 'problem') ? EXIT_FAILURE : 0
}

function readOptions(args: readonly string[]): { json: boolean; help: boolean } {
  try {
    const { values } = parseArgs({
      args: [...args],
      options: {
        json: { type: 'boolean', default: false },
        help: { type: 'boolean', short: 'h', default: false },
      },
    })
    return values
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error), DOCTOR_USAGE)
  }
}
