import type { CpuSeconds } from '../cpu.ts'
import type { BurstOptions, Findings } from '../report.ts'
import { percentile, readable, table } from '../statistics.ts'
import type { Sample, TableSize } from '../watch.ts'
import type { Phase } from './arrivals.ts'
import type { BurstLoadReport } from './load.ts'
import { KINDS, type Kind } from './mail.ts'
import { Moments } from './moments.ts'
import type { LoopReport } from './open-loop.ts'
import type { Arrivals } from './sink.ts'

/** All that a burst was seen to do. Moments are those of the monotonic clock. */
export type BurstRun = {
  readonly options: BurstOptions
  readonly phases: readonly Phase[]
  readonly startedAtMs: number
  readonly endedAtMs: number
  readonly news: number
  readonly load: BurstLoadReport
  readonly arrivals: Arrivals
  readonly samples: readonly Sample[]
  readonly cpu: CpuSeconds
  readonly walBytes: number
  /** At the highest, by process. */
  readonly memoryMb: ReadonlyMap<string, number>
  readonly tables: readonly TableSize[]
}

/** What became of the mails of one kind. */
type Tally = {
  readonly kind: Kind
  readonly offered: number
  readonly accepted: number
  readonly arrived: number
  readonly lost: number
  readonly twice: number
  /** Arrived, and nobody was told that they were accepted. */
  readonly unexpected: number
}

/** Latencies of mails of one kind offered in one stretch of time. */
type Stretch = {
  readonly name: string
  readonly count: number
  readonly acceptedMs: readonly number[]
  readonly sentMs: readonly number[]
}

export function findingsOf(run: BurstRun): Findings {
  const tallies = talliesOf(run)
  const stretches = stretchesOf(run)
  const resets = stretches.filter(({ name }) => name.startsWith('resets'))
  const lost = tallies.reduce((sum, tally) => sum + tally.lost, 0)
  const sentInBurst = resets.find(({ name }) => name === 'resets, burst')
  const lag = lagOf(run.samples)
  const costs = costsOf(run)
  const of = `${whole(tallies[0]?.offered ?? 0)} orders, ${sentInBurst?.count ?? 0} resets in the burst`
  return {
    text: textOf(run, { tallies, stretches, lag, costs }),
    data: {
      options: run.options,
      phases: run.phases,
      tallies,
      latencies: stretches.map(({ name, count, acceptedMs, sentMs }) => {
        return { name, count, acceptedMs: spread(acceptedMs), sentMs: spread(sentMs) }
      }),
      refusals: { order: run.load.order.refusals, reset: run.load.reset.refusals },
      lag,
      costs,
      walBytes: run.walBytes,
      tables: run.tables,
      samples: run.samples,
    },
    measured: {
      burstLost: { value: lost, of },
      burstResets: { value: percentile(sentInBurst?.sentMs ?? [], 99), of },
    },
    lost,
    broken: brokenPromises(run, tallies),
  }
}

function brokenPromises({ load, arrivals }: BurstRun, tallies: readonly Tally[]): string[] {
  const broken: string[] = []
  for (const { status, count } of load.order.refusals) {
    if (status !== 0 && status !== 429 && status !== 503)
      broken.push(`${count} orders were answered ${status}`)
  }
  for (const { status, count } of load.reset.refusals) {
    if (status !== 0)
      broken.push(
        `${count} times a reset was answered ${status}: urgent mail is accepted up to the hard limit`,
      )
  }
  for (const { kind, twice, unexpected } of tallies) {
    if (twice > 0) broken.push(`${twice} mails of the kind ${kind} arrived twice, and nothing had died`)
    if (unexpected > 0)
      broken.push(`${unexpected} mails of the kind ${kind} arrived without having been acknowledged`)
  }
  if (arrivals.strangers > 0) broken.push(`${arrivals.strangers} mails arrived that nobody had handed in`)
  for (const [kind, { notDurable, withoutRetryAfter }] of [
    ['order', load.order],
    ['reset', load.reset],
  ] as const) {
    if (notDurable > 0)
      broken.push(`${notDurable} answers to mails of the kind ${kind} did not say that they are durable`)
    if (withoutRetryAfter > 0)
      broken.push(`${withoutRetryAfter} refusals of the kind ${kind} did not say when to come again`)
  }
  return broken
}

function talliesOf({ load, arrivals, news }: BurstRun): Tally[] {
  return KINDS.map((kind) => {
    const arrived = arrivals.at[kind]
    const loop = kind === 'news' ? undefined : load[kind]
    const answered = loop === undefined ? undefined : Moments.fromText(loop.answered)
    const offered = loop?.offered ?? news
    let [accepted, came, lost, unexpected] = [0, 0, 0, 0]
    for (let n = 0; n < offered; n += 1) {
      const isAccepted = answered === undefined || !Number.isNaN(answered.get(n))
      const hasCome = !Number.isNaN(arrived.get(n))
      if (isAccepted) accepted += 1
      if (hasCome) came += 1
      if (isAccepted && !hasCome) lost += 1
      if (!isAccepted && hasCome) unexpected += 1
    }
    return { kind, offered, accepted, arrived: came, lost, twice: arrivals.twice[kind], unexpected }
  })
}

/** Orders by their phase, resets by the phase they fell into; those after the last order belong to the draining. */
function stretchesOf({ phases, load, arrivals }: BurstRun): Stretch[] {
  const orders = latenciesOf(load.order, arrivals.at.order)
  const resets = latenciesOf(load.reset, arrivals.at.reset)
  const stretches: Stretch[] = []
  let first = 0
  let fromMs = Number.NEGATIVE_INFINITY
  for (const { name, count } of phases) {
    const own = orders.slice(first, first + count)
    first += count
    const untilMs = own.at(-1)?.intendedMs ?? fromMs
    stretches.push(stretchOf(`orders, ${name}`, own))
    stretches.push(
      stretchOf(
        `resets, ${name}`,
        resets.filter((each) => each.intendedMs > fromMs && each.intendedMs <= untilMs),
      ),
    )
    fromMs = untilMs
  }
  stretches.push(
    stretchOf(
      'resets, draining',
      resets.filter(({ intendedMs }) => intendedMs > fromMs),
    ),
  )
  return stretches
}

type Latency = { readonly intendedMs: number; readonly acceptedMs: number; readonly sentMs: number }

function latenciesOf({ offered, intended, answered }: LoopReport, arrived: Moments): Latency[] {
  const [due, heard] = [Moments.fromText(intended), Moments.fromText(answered)]
  return Array.from({ length: offered }, (_, n) => {
    const intendedMs = due.get(n)
    return { intendedMs, acceptedMs: heard.get(n) - intendedMs, sentMs: arrived.get(n) - intendedMs }
  })
}

function stretchOf(name: string, latencies: readonly Latency[]): Stretch {
  const known = (values: number[]) => values.filter((value) => !Number.isNaN(value)).sort((a, b) => a - b)
  return {
    name,
    count: latencies.length,
    acceptedMs: known(latencies.map(({ acceptedMs }) => acceptedMs)),
    sentMs: known(latencies.map(({ sentMs }) => sentMs)),
  }
}

type Spread = { readonly p50: number; readonly p95: number; readonly p99: number; readonly max: number }

function spread(values: readonly number[]): Spread {
  const at = (percent: number) => percentile(values, percent)
  return { p50: at(50), p95: at(95), p99: at(99), max: values.at(-1) ?? Number.NaN }
}

type Lag = {
  readonly most: number
  readonly atS: number
  readonly mostForDispatch: number
  readonly intakeMb: number
}

function lagOf(samples: readonly Sample[]): Lag {
  const worst = samples.reduce<Sample | undefined>(
    (a, b) => (a === undefined || b.lag > a.lag ? b : a),
    undefined,
  )
  return {
    most: worst?.lag ?? 0,
    atS: (worst?.atMs ?? 0) / 1_000,
    mostForDispatch: samples.reduce((most, { waitsForDispatch }) => Math.max(most, waitsForDispatch), 0),
    intakeMb: samples.reduce((most, { intakeBytes }) => Math.max(most, intakeBytes), 0) / 1e6,
  }
}

type Cost = { readonly process: string; readonly cpuMs: number; readonly memoryMb: number }

/** CPU a message of all that were sent; memory at the highest. */
function costsOf({ cpu, memoryMb, arrivals }: BurstRun): Cost[] {
  const sent = KINDS.reduce((sum, kind) => sum + countOf(arrivals.at[kind]), 0)
  return [...cpu].map(([process, seconds]) => {
    return { process, cpuMs: (seconds * 1e3) / sent, memoryMb: memoryMb.get(process) ?? Number.NaN }
  })
}

function countOf(moments: Moments): number {
  let count = 0
  for (let n = 0; n < moments.length; n += 1) if (!Number.isNaN(moments.get(n))) count += 1
  return count
}

type Found = {
  readonly tallies: readonly Tally[]
  readonly stretches: readonly Stretch[]
  readonly lag: Lag
  readonly costs: readonly Cost[]
}

function textOf(run: BurstRun, { tallies, stretches, lag, costs }: Found): string {
  const { options, phases, load, samples, walBytes } = run
  const sent = tallies.reduce((sum, { arrived }) => sum + arrived, 0)
  const seconds = (run.endedAtMs - run.startedAtMs) / 1_000
  const door = options.door === 'rest' ? 'durable requests' : 'inserts into mail.outbox'
  return [
    `One API process and ${options.workers} of workers; orders by ${door}, ${options.streams === 'apart' ? 'in a stream of their own' : 'in one stream with the resets'}.`,
    `${phases.map(({ name, count, perS }) => `${name}: ${readable(count)} at ${readable(perS)}/s`).join('; ')}. A newsletter of ${readable(run.news)} waits from the start.`,
    `All had arrived after ${readable(seconds)} s, ${readable(sent / seconds)} a second.`,
    '',
    table(
      ['mail', 'offered', 'accepted', 'arrived', 'lost', 'twice', 'unexpected'],
      tallies.map(({ kind, ...numbers }) => [kind, ...Object.values(numbers).map(whole)]),
    ),
    '',
    'Milliseconds from the moment meant for the request, refusals and their retries included.',
    '',
    table(
      ['mail', 'count', 'answer p50', 'p95', 'p99', 'max', 'sent p50', 'p95', 'p99', 'max'],
      stretches.map(({ name, count, acceptedMs, sentMs }) => [
        name,
        whole(count),
        ...Object.values(spread(acceptedMs)),
        ...Object.values(spread(sentMs)),
      ]),
    ),
    '',
    `Accepted and not yet handed to dispatch: at most ${whole(lag.most)}, after ${readable(lag.atS)} s. Waiting for dispatch: at most ${whole(lag.mostForDispatch)}. The doors took at most ${readable(lag.intakeMb)} MB.`,
    ...refusalLines(run),
    ...pressureLines(samples),
    `WAL: ${readable(walBytes / 1e6)} MB, ${readable(walBytes / sent / 1e3)} kB a message.`,
    `The generator used ${Math.round(load.busy * 100)} % of a core and was at most ${readable(load.lateMs)} ms late; at most ${whole(load.order.mostWaiting)} orders found every connection busy.`,
    '',
    table(
      ['process', 'CPU, ms a message', 'highest memory, MB'],
      costs.map(({ process, cpuMs, memoryMb }) => [process, cpuMs, memoryMb]),
    ),
    '',
    table(
      ['largest tables', 'MB', 'rows', 'dead rows'],
      run.tables.map(({ name, mb, rows, deadRows }) => [name, mb, whole(rows), whole(deadRows)]),
    ),
  ].join('\n')
}

function refusalLines({ load, startedAtMs }: BurstRun): string[] {
  const lines = (['order', 'reset'] as const).flatMap((kind) =>
    load[kind].refusals.map(({ status, count, fromMs, untilMs }) => {
      const [from, until] = [fromMs, untilMs].map((at) => readable((at - startedAtMs) / 1_000))
      const what = status === 0 ? 'broken connections' : `answers of ${status}`
      return `${what} to mails of the kind ${kind}: ${whole(count)}, from ${from} s to ${until} s; each was repeated with its key.`
    }),
  )
  return lines.length > 0 ? lines : ['Nothing was refused.']
}

/** When the limits of the intake were passed, as far as a look a second shows it. */
function pressureLines(samples: readonly Sample[]): string[] {
  const pressed = samples.filter(({ pressure }) => pressure !== null)
  const [first] = pressed
  const last = pressed.at(-1)
  if (first === undefined || last === undefined) return ['No limit of the intake was passed.']
  const causes = [...new Set(pressed.map(({ pressure, cause }) => `${pressure} by ${cause}`))].join(', ')
  return [
    `Limits of the intake were passed (${causes}) in ${pressed.length} of ${samples.length} looks, from ${readable(first.atMs / 1_000)} s to ${readable(last.atMs / 1_000)} s.`,
  ]
}

function whole(value: number): string {
  return value.toLocaleString('en-US', { maximumFractionDigits: 0 })
}
