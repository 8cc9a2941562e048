import { parseArgs } from 'node:util'
import fc from 'fast-check'
import type { FuzzTarget } from '../test/fuzz/target.ts'
import { FUZZ_TARGETS } from '../test/fuzz/targets.ts'

const HELP = `Usage: npm run fuzz -- [targets] [options]

Feeds what strangers feed Sluice, altered in every way, for as long as you like. Without targets: all of them.

${FUZZ_TARGETS.map(({ name, about }) => `  ${name.padEnd(20)}${about}`).join('\n')}

  --seconds N     for each target [60]
  --seed=N        begin where an earlier run began; printed by each
  --path P        with --seed: only the case that failed there
  --help          show this text

routes starts a service over a Postgres of its own. The exit code is 1 when something failed; the seed, the
path and the shortest case that fails are printed then.`

const EXIT_USAGE = 64

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      seconds: { type: 'string', default: '60' },
      seed: { type: 'string' },
      path: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  })
  if (values.help) {
    console.log(HELP)
    return 0
  }
  const unknown = positionals.filter((name) => FUZZ_TARGETS.every((target) => target.name !== name))
  const seconds = Number(values.seconds)
  const seed = values.seed === undefined ? undefined : Number(values.seed)
  if (unknown.length > 0 || !(seconds > 0) || (seed !== undefined && !Number.isInteger(seed))) {
    console.error(`unknown: ${unknown.join(', ') || 'a number that is none'}\n\n${HELP}`)
    return EXIT_USAGE
  }
  const targets = FUZZ_TARGETS.filter(({ name }) => positionals.length === 0 || positionals.includes(name))
  let failed = 0
  for (const target of targets) {
    if (!(await holds(target, { seconds, seed, path: values.path }))) failed += 1
  }
  return failed === 0 ? 0 : 1
}

type Begin = {
  readonly seconds: number
  readonly seed: number | undefined
  readonly path: string | undefined
}

/** Runs one target for its time, and says what came of it. */
async function holds({ name, open }: FuzzTarget, { seconds, seed, path }: Begin): Promise<boolean> {
  const closers: (() => unknown)[] = []
  const scope = {
    after: (close: () => unknown) => closers.push(close),
    diagnostic: (line: string) => console.log(`${' '.repeat(20)}${line}`),
  }
  try {
    const property = await open(scope)
    const startedAt = performance.now()
    const details = await fc.check(property, {
      numRuns: Number.MAX_SAFE_INTEGER,
      interruptAfterTimeLimit: seconds * 1_000,
      markInterruptAsFailure: false,
      ...(seed !== undefined && { seed }),
      ...(path !== undefined && { path }),
    })
    const tookS = (performance.now() - startedAt) / 1_000
    const isOver = !details.failed
    console.log(
      `${name.padEnd(20)}${isOver ? 'holds' : 'FAILED'}: ${details.numRuns} cases in ${tookS.toFixed(1)} s, seed ${details.seed}`,
    )
    if (!isOver)
      console.log(
        `  --seed=${details.seed} --path ${details.counterexamplePath}\n${fc.defaultReportMessage(details)}`,
      )
    return isOver
  } finally {
    for (const close of closers.reverse()) await close()
  }
}

process.exitCode = await main()
