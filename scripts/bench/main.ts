import { mkdirSync, writeFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { accept } from './accept.ts'
import { BURST_MINUTES, burst } from './burst.ts'
import { endToEnd } from './end-to-end.ts'
import { idle } from './idle.ts'
import { describeMachine, loadOfOthers, type Machine, machineText } from './machine.ts'
import { pacing } from './pacing.ts'
import { type BenchOptions, type BurstOptions, type Findings, isMet } from './report.ts'
import { openRig } from './rig.ts'
import { readable, table } from './statistics.ts'

const BENCHMARKS = { 'end-to-end': endToEnd, idle, accept, pacing, burst } as const
type Name = keyof typeof BENCHMARKS
/** What runs without a name; the burst takes several minutes by itself. */
const USUAL: readonly Name[] = ['end-to-end', 'idle', 'accept', 'pacing']

const HELP = `Usage: npm run bench -- [names] [options]

Measures Sluice on this machine, over a Postgres of its own in a temporary directory.

  end-to-end      orders from SQL insert to the sink, against a bare render-and-send loop
  idle            one mail at a time, from the request to acceptance by the sink
  accept          mails accepted a second over REST, durable and buffered
  pacing          one to four worker processes on one token bucket, against its quota
  burst           300,000 orders in four minutes with a password reset each second, then ten times the
                  normal rate for a minute; only when it is named

  --messages N    messages of one run of end-to-end [10000]
  --runs N        rounds of end-to-end [3]
  --seconds N     length of each case of accept, and of pacing when it is above 20 [5]
  --scale X       how much of burst: 0.01 is 3,000 orders in 2.4 s [1]
  --minutes N     over how long the orders of burst come [4 × scale]
  --door NAME     of burst's orders: rest, or sql (inserts into mail.outbox) [rest]
  --streams NAME  of burst: orders apart from resets, or together in one stream [apart]
  --workers N     worker processes of burst, beside one for the API [1]
  --json FILE     write the figures there as well
  --profile DIR   write CPU profiles of the service there (it is slower then)
  --help          show this text

docs/performance.md says what each figure means. The exit code is 0 whatever the figures are, and 1 when
a message was lost, a provider's quota exceeded, or another promise broken.`

const EXIT_USAGE = 64

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      messages: { type: 'string', default: '10000' },
      runs: { type: 'string', default: '3' },
      seconds: { type: 'string', default: '5' },
      scale: { type: 'string', default: '1' },
      minutes: { type: 'string' },
      door: { type: 'string', default: 'rest' },
      streams: { type: 'string', default: 'apart' },
      workers: { type: 'string', default: '1' },
      json: { type: 'string' },
      profile: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  })
  if (values.help) {
    console.log(HELP)
    return 0
  }
  const names = positionals.length > 0 ? positionals : USUAL
  const unknown = names.filter((name) => !(name in BENCHMARKS))
  const numbers = [values.messages, values.runs, values.seconds].map(Number)
  const burst = burstOptions(values)
  if (unknown.length > 0 || burst === undefined || !numbers.every(isCount)) {
    console.error(`unknown: ${unknown.join(', ') || 'an option that cannot be so'}\n\n${HELP}`)
    return EXIT_USAGE
  }
  const [messages = 1, runs = 1, seconds = 1] = numbers
  const profileDir = values.profile === undefined ? undefined : resolve(values.profile)
  if (profileDir !== undefined) mkdirSync(profileDir, { recursive: true })
  const options: BenchOptions = {
    messages,
    runs,
    seconds,
    profileDir,
    burst,
    say: (line) => console.error(line),
  }
  return run(names as Name[], options, values.json)
}

const isCount = (number: number) => Number.isInteger(number) && number > 0

type BurstValues = Readonly<Record<'scale' | 'door' | 'streams' | 'workers', string>> & {
  readonly minutes?: string
}

/** Undefined when one of them makes no sense. */
function burstOptions({ door, streams, ...values }: BurstValues): BurstOptions | undefined {
  const [scale, workers] = [Number(values.scale), Number(values.workers)]
  const minutes = values.minutes === undefined ? BURST_MINUTES * scale : Number(values.minutes)
  if (door !== 'rest' && door !== 'sql') return undefined
  if (streams !== 'apart' && streams !== 'together') return undefined
  const areSound =
    scale > 0 && scale <= 10 && minutes > 0 && minutes <= 60 && isCount(workers) && workers <= 8
  return areSound ? { scale, minutes, door, streams, workers } : undefined
}

async function run(names: readonly Name[], options: BenchOptions, json: string | undefined): Promise<number> {
  const loadBefore = loadOfOthers()
  const rig = await openRig()
  const machine = await describeMachine(await rig.createDatabase('machine'), loadBefore)
  console.log(`${machineText(machine)}\n`)
  const all: Findings[] = []
  for (const name of names) {
    const findings = await BENCHMARKS[name](rig, options)
    console.log(`## ${findings.name}\n\n${findings.text}\n`)
    all.push(findings)
  }
  await rig.close()
  console.log(`## targets\n\n${targetsText(all)}\n`)
  if (json !== undefined) writeFileSync(json, `${JSON.stringify(jsonOf(machine, all), null, 2)}\n`)
  const lost = all.reduce((sum, findings) => sum + findings.lost, 0)
  if (lost > 0) console.error(`${lost} messages were lost`)
  const broken = all.flatMap((findings) => findings.broken ?? [])
  for (const sentence of broken) console.error(sentence)
  return lost > 0 || broken.length > 0 ? 1 : 0
}

function targetsText(all: readonly Findings[]): string {
  const targets = all.flatMap((findings) => findings.targets)
  return table(
    ['target', 'wanted', 'measured', ''],
    targets.map((target) => [
      target.what,
      `${target.bound} ${readable(target.limit)} ${target.unit}`,
      `${readable(target.measured)} ${target.unit}`,
      isMet(target) ? 'met' : 'missed',
    ]),
  )
}

function jsonOf(machine: Machine, all: readonly Findings[]): object {
  return { machine, benchmarks: all.map(({ name, data, targets, lost }) => ({ name, data, targets, lost })) }
}

// Whatever is running is ended by the guard, which notices that this process is gone.
process.once('SIGINT', () => process.exit(130))
process.once('SIGTERM', () => process.exit(143))
process.exitCode = await main()
