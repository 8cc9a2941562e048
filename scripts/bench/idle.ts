/**
 * One mail at a time through an idle system: from the start of the request until the sink has accepted
 * the mail, and until the durable answer is there. The next one starts when the last is settled. In turns with it an
 * application sends the same mail itself, before it answers.
 */
import { Agent, request } from 'node:http'
import { startBareApp } from './bare-app.ts'
import { commitWaits } from './commit-waits.ts'
import { orderMessage } from './order.ts'
import type { BenchOptions, Findings } from './report.ts'
import { API_KEY, publishTemplate, type Rig, startService, withClient } from './rig.ts'
import { type Sink, startOwnSink } from './sink.ts'
import { percentile, table } from './statistics.ts'
import { firstSeq, untilSettled } from './stored.ts'

const WARM_UP = 30

type Sample = { readonly acceptedMs: number; readonly answeredMs: number }
type Samples = {
  readonly sluice: Sample[]
  readonly withoutQueue: Sample[]
  /** See commit-waits.ts. */
  readonly commitMs: readonly number[]
}

export async function idle(rig: Rig, options: BenchOptions): Promise<Findings> {
  const databaseUrl = await rig.createDatabase('idle')
  const sink = await startOwnSink(rig.guard)
  const { idleMails, profileDir, seconds } = options
  const service = await startService(rig, { databaseUrl, smtpUrl: sink.url, roles: 'api,worker', profileDir })
  await publishTemplate(service.url)
  const app = await startBareApp(rig.guard, 'send', sink.url)
  const agent = new Agent({ keepAlive: true })
  const { lost, ...samples } = await withClient(databaseUrl, async (client) => {
    const found = { sluice: [] as Sample[], withoutQueue: [] as Sample[], lost: 0 }
    for (let n = 0; n < WARM_UP + idleMails; n += 1) {
      const seq = await firstSeq(client)
      const ours = await timeOne(service.url, n, sink, agent)
      found.lost += (await untilSettled(client, seq, 1)).lost
      const theirs = await timeOne(app.url, n, sink, agent)
      if (n < WARM_UP) continue
      if (ours !== undefined) found.sluice.push(ours)
      if (theirs !== undefined) found.withoutQueue.push(theirs)
    }
    return { ...found, commitMs: await commitWaits(client, seconds) }
  })
  agent.destroy()
  app.close()
  await service.stop()
  sink.close()
  return findingsOf(samples, lost)
}

/** Undefined when the sink never had it. */
async function timeOne(url: string, n: number, sink: Sink, agent: Agent): Promise<Sample | undefined> {
  const reached = sink.reached(sink.accepted() + 1)
  const startedAt = process.hrtime.bigint()
  const answeredAt = await postEmail(`${url}/emails`, orderMessage(n), agent)
  const acceptedAt = await reached
  if (acceptedAt === undefined) return undefined
  return {
    acceptedMs: Number(acceptedAt - startedAt) / 1e6,
    answeredMs: Number(answeredAt - startedAt) / 1e6,
  }
}

/** Resolves with the moment the whole answer was there. */
function postEmail(url: string, body: string, agent: Agent): Promise<bigint> {
  return new Promise((resolve, reject) => {
    const headers = {
      Authorization: `Bearer ${API_KEY}`,
      'Content-Type': 'application/json',
      'Content-Length': Buffer.byteLength(body),
    }
    const sent = request(url, { method: 'POST', headers, agent }, (answer) => {
      answer.resume()
      answer.on('end', () => {
        if (answer.statusCode === 200) resolve(process.hrtime.bigint())
        else reject(new Error(`POST ${url} answered ${answer.statusCode}`))
      })
    })
    sent.on('error', reject)
    sent.end(body)
  })
}

function findingsOf({ sluice, withoutQueue, commitMs }: Samples, lost: number): Findings {
  const row = (name: string, values: readonly number[]) => ({
    name,
    p50Ms: percentile(values, 50),
    p95Ms: percentile(values, 95),
    p99Ms: percentile(values, 99),
    maxMs: percentile(values, 100),
  })
  const acceptedOf = (samples: readonly Sample[]) => samples.map(({ acceptedMs }) => acceptedMs)
  const answeredOf = (samples: readonly Sample[]) => samples.map(({ answeredMs }) => answeredMs)
  const accepted = row('Sluice: accepted by the sink', acceptedOf(sluice))
  const rows = [
    accepted,
    row('Sluice: durable answer', answeredOf(sluice)),
    row('without a queue: accepted by the sink', acceptedOf(withoutQueue)),
    row('without a queue: answer', answeredOf(withoutQueue)),
    row('one commit, at any moment', commitMs),
  ]
  return {
    data: { mails: sluice.length, rows },
    measured: {
      idleMedian: { value: accepted.p50Ms, of: `${sluice.length} mails` },
      idleSlow: { value: accepted.p99Ms, of: `${sluice.length} mails` },
    },
    lost,
    text: [
      `${sluice.length} mails, one at a time, in turns with ${withoutQueue.length} without a queue. Milliseconds from the start of the request, and of a commit.`,
      '',
      table(
        ['until', 'p50', 'p95', 'p99', 'max'],
        rows.map(({ name, p50Ms, p95Ms, p99Ms, maxMs }) => [name, p50Ms, p95Ms, p99Ms, maxMs]),
      ),
    ].join('\n'),
  }
}
