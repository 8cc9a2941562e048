import { mkdirSync } from 'node:fs'
import { BENCHMARKS, type BenchmarkName } from './benchmarks.ts'
import { type Command, HELP, readCommand } from './command-line.ts'
import { describeMachine, loadOfOthers, machineText } from './machine.ts'
import type { Recorded } from './performance-document.ts'
import { plotText } from './plot.ts'
import { record, writeInto } from './record.ts'
import { recoveryOfWorkers } from './recovery.ts'
import type { BenchOptions, Findings } from './report.ts'
import { openRig, type Rig } from './rig.ts'
import { mergeMeasured, targetsTable } from './targets.ts'

const EXIT_USAGE = 64

type Result = Findings & Recorded

async function main(): Promise<number> {
  const command = readCommand(process.argv.slice(2))
  if (command === 'help') {
    console.log(HELP)
    return 0
  }
  if (typeof command === 'string') {
    console.error(`${command}\n\n${HELP}`)
    return EXIT_USAGE
  }
  return run(command)
}

async function run({ names, options, jsonFile, plotFile, isRecorded }: Command): Promise<number> {
  if (options.profileDir !== undefined) mkdirSync(options.profileDir, { recursive: true })
  const loadBefore = loadOfOthers()
  const rig = await openRig()
  const machine = await describeMachine(await rig.createDatabase('machine'), loadBefore)
  console.log(`${machineText(machine)}\n`)
  const results: Result[] = []
  for (const name of names) {
    const result = await measure(rig, options, name, machineText(machine))
    console.log(`## ${name}\n\n${result.text}\n`)
    results.push(result)
    // Each at once: what took an hour is not lost with what comes after it.
    if (isRecorded) record([keptOf(result)])
  }
  await rig.close()
  const targets = mergeMeasured([...results.map(({ measured }) => measured), recoveryOfWorkers()])
  console.log(`## targets\n\n${targetsTable(targets)}\n`)
  writeInto(jsonFile, `${JSON.stringify({ machine, targets, benchmarks: results }, null, 2)}\n`)
  writeInto(plotFile, plotText(results.flatMap(({ plot }) => plot ?? [])))
  console.error(`figures: ${jsonFile}; plot: ${plotFile}`)
  return judge(results)
}

async function measure(
  rig: Rig,
  options: BenchOptions,
  name: BenchmarkName,
  machine: string,
): Promise<Result> {
  const startedAt = performance.now()
  const findings = await BENCHMARKS[name].run(rig, options)
  const { mb, roles } = rig.takeHighestMemory()
  return {
    ...findings,
    name,
    on: new Date().toISOString().slice(0, 10),
    machine,
    tookS: Math.round((performance.now() - startedAt) / 1_000),
    measured: { ...findings.measured, memory: { value: mb, of: `${name}, SLUICE_ROLES=${roles}` } },
  }
}

/** Without what only a program would look at. */
function keptOf({ name, on, machine, tookS, text, measured, plot }: Result): Recorded {
  return { name, on, machine, tookS, text, measured, ...(plot !== undefined && { plot }) }
}

function judge(results: readonly Result[]): number {
  const complaints = results.flatMap(({ name, lost, broken = [] }) => [
    ...(lost > 0 ? [`${name}: ${lost} messages were lost`] : []),
    ...broken.map((sentence) => `${name}: ${sentence}`),
  ])
  for (const complaint of complaints) console.error(complaint)
  return complaints.length > 0 ? 1 : 0
}

// Whatever is running is ended by the guard, which notices that this process is gone.
process.once('SIGINT', () => process.exit(130))
process.once('SIGTERM', () => process.exit(143))
process.exitCode = await main()
