/**
 * The rate of a flash sale at the door while workers prepare and send: durable requests at moments of their own, which
 * do not wait for answers. A request's time counts from its moment, so nothing is left out while the system is slow.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { type BurstLoadReport, startBurstLoad } from './burst/load.ts'
import { Moments } from './burst/moments.ts'
import { commitWaits } from './commit-waits.ts'
import type { BenchOptions, Findings } from './report.ts'
import { API_KEY, publishTemplate, type Rig, startService, withClient } from './rig.ts'
import { startOwnSink } from './sink.ts'
import { percentile, readable, table } from './statistics.ts'
import { firstSeq, untilSettled } from './stored.ts'

const PER_S = 1_250
const WARM_UP_S = 3
const CONNECTIONS = 512
const LOOK_MS = 100

export async function steady(rig: Rig, { seconds, profileDir, say }: BenchOptions): Promise<Findings> {
  const databaseUrl = await rig.createDatabase('steady')
  const commitMs = await withClient(databaseUrl, (client) => commitWaits(client, seconds))
  const sink = await startOwnSink(rig.guard)
  const start = (roles: 'api' | 'worker') =>
    startService(rig, { databaseUrl, smtpUrl: sink.url, roles, profileDir })
  const api = await start('api')
  const worker = await start('worker')
  await publishTemplate(api.url)
  const load = startBurstLoad(rig.guard)
  const phases = [
    { name: 'warm-up', count: PER_S * WARM_UP_S, perS: PER_S },
    { name: 'measured', count: PER_S * seconds, perS: PER_S },
  ]
  const { lost, report, sentMeanwhile } = await withClient(databaseUrl, async (client) => {
    const seq = await firstSeq(client)
    const resetEachMs = undefined
    await load.start({
      url: api.url,
      apiKey: API_KEY,
      enqueueUrl: undefined,
      connections: CONNECTIONS,
      phases,
      resetEachMs,
      streams: 'together',
    })
    while (!load.progress().isDone) await delay(LOOK_MS)
    const sentMeanwhile = sink.accepted()
    const { accepted } = load.progress().order
    say(`steady: ${readable(accepted)} accepted, ${readable(sentMeanwhile)} sent meanwhile`)
    const { lost } = await untilSettled(client, seq, accepted)
    return { lost, sentMeanwhile, report: await load.report() }
  })
  load.close()
  for (const service of [api, worker]) await service.stop()
  sink.close()
  return findingsOf(report, { seconds, lost, sentMeanwhile, commitMs })
}

type Rest = {
  readonly seconds: number
  readonly lost: number
  readonly sentMeanwhile: number
  readonly commitMs: readonly number[]
}

function findingsOf(
  { order, busy, lateMs }: BurstLoadReport,
  { seconds, lost, sentMeanwhile, commitMs }: Rest,
): Findings {
  const [due, heard] = [Moments.fromText(order.intended), Moments.fromText(order.answered)]
  const answeredMs: number[] = []
  for (let n = PER_S * WARM_UP_S; n < order.offered; n += 1) {
    const tookMs = heard.get(n) - due.get(n)
    if (!Number.isNaN(tookMs)) answeredMs.push(tookMs)
  }
  const quantiles = (values: readonly number[]) => [50, 95, 99, 100].map((each) => percentile(values, each))
  const [p50, p95, p99 = Number.NaN, max] = quantiles(answeredMs)
  const refused = order.refusals.reduce((sum, { count }) => sum + count, 0)
  const { notDurable, withoutRetryAfter } = order
  return {
    data: {
      offered: order.offered,
      accepted: order.accepted,
      p50,
      p95,
      p99,
      max,
      refused,
      commitP99Ms: percentile(commitMs, 99),
      sentMeanwhile,
      busy,
      lateMs,
      lost,
    },
    measured: {
      steadyAnswer: {
        value: p99,
        of: `${seconds} s, one API and one worker process; of one commit alone, at any moment, ${readable(percentile(commitMs, 99))} ms`,
      },
    },
    lost,
    broken: [
      ...(notDurable > 0 ? [`${notDurable} answers did not say that they are durable`] : []),
      ...(withoutRetryAfter > 0 ? [`${withoutRetryAfter} refusals did not say when to come again`] : []),
    ],
    text: [
      `${readable(PER_S)} requests a second for ${seconds} s, over at most ${CONNECTIONS} connections. Milliseconds from the moment meant for the request until its durable answer.`,
      '',
      table(
        ['until', 'accepted', 'refused', 'p50', 'p95', 'p99', 'max', 'lost'],
        [
          ['durable answer', String(order.accepted), String(refused), ...quantiles(answeredMs), String(lost)],
          ['one commit, at any moment', '', '', ...quantiles(commitMs), ''],
        ],
      ),
      '',
      `The workers sent ${readable(sentMeanwhile)} of them meanwhile. The generator used ${Math.round(busy * 100)} % of a core and was at most ${readable(lateMs)} ms late.`,
    ].join('\n'),
  }
}
