import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describeMachine, machineText } from '../bench/machine.ts'
import { openRig } from '../bench/rig.ts'
import { guaranteesText, type Recorded } from './guarantees.ts'
import type { Row } from './row.ts'
import { RUNS } from './runs.ts'

export const FIGURES = fileURLToPath(new URL('../../docs/guarantees.json', import.meta.url))
export const DOCUMENT = fileURLToPath(new URL('../../docs/guarantees.md', import.meta.url))

let machine: string | undefined

/** Puts rows in the place of those that their runs had before, and the tables of the document in step with them. */
export async function record(rows: readonly Row[], loadBefore: number): Promise<void> {
  machine ??= await describe(loadBefore)
  const recorded = new Map(readRecorded().map((each) => [each.row.run, each]))
  const on = new Date().toISOString().slice(0, 10)
  for (const row of rows) recorded.set(row.run, { on, machine, row })
  const inOrder = RUNS.flatMap(({ name }) => recorded.get(name) ?? [])
  writeFileSync(FIGURES, `${JSON.stringify(inOrder, null, 2)}\n`)
  writeFileSync(DOCUMENT, guaranteesText(readFileSync(DOCUMENT, 'utf8'), inOrder))
}

export function readRecorded(): Recorded[] {
  return existsSync(FIGURES) ? (JSON.parse(readFileSync(FIGURES, 'utf8')) as Recorded[]) : []
}

async function describe(loadBefore: number): Promise<string> {
  const rig = await openRig()
  const described = await describeMachine(await rig.createDatabase('machine'), loadBefore)
  await rig.close()
  return machineText(described)
}
