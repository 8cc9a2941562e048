/**
 * One mail at a time through an idle system: from the start of the request until the sink has accepted
 * the mail, and until the durable answer is there. The next one starts when the last is settled.
 */
import { Agent, request } from 'node:http'
import { orderMessage } from './order.ts'
import type { BenchOptions, Findings } from './report.ts'
import { API_KEY, publishTemplate, type Rig, startService, withClient } from './rig.ts'
import { startOwnSink } from './sink.ts'
import { percentile, table } from './statistics.ts'
import { firstSeq, untilSettled } from './stored.ts'

const WARM_UP = 30

type Sample = { readonly acceptedMs: number; readonly answeredMs: number }

export async function idle(rig: Rig, options: BenchOptions): Promise<Findings> {
  const databaseUrl = await rig.createDatabase('idle')
  const sink = await startOwnSink(rig.guard)
  const { idleMails, profileDir } = options
  const service = await startService(rig, { databaseUrl, smtpUrl: sink.url, roles: 'api,worker', profileDir })
  await publishTemplate(service.url)
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  const samples: Sample[] = []
  let lost = 0
  await withClient(databaseUrl, async (client) => {
    for (let n = 0; n < WARM_UP + idleMails; n += 1) {
      const seq = await firstSeq(client)
      const reached = sink.reached(sink.accepted() + 1)
      const startedAt = process.hrtime.bigint()
      const answeredAt = await postEmail(`${service.url}/emails`, orderMessage(n), agent)
      const acceptedAt = await reached
      lost += (await untilSettled(client, seq, 1)).lost
      if (n < WARM_UP || acceptedAt === undefined) continue
      samples.push({
        acceptedMs: Number(acceptedAt - startedAt) / 1e6,
        answeredMs: Number(answeredAt - startedAt) / 1e6,
      })
    }
  })
  agent.destroy()
  await service.stop()
  sink.close()
  return findingsOf(samples, lost)
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

function findingsOf(samples: readonly Sample[], lost: number): Findings {
  const row = (name: string, values: readonly number[]) => ({
    name,
    p50Ms: percentile(values, 50),
    p95Ms: percentile(values, 95),
    p99Ms: percentile(values, 99),
    maxMs: Math.max(...values),
  })
  const accepted = row(
    'accepted by the sink',
    samples.map((sample) => sample.acceptedMs),
  )
  const answered = row(
    'durable answer',
    samples.map((sample) => sample.answeredMs),
  )
  return {
    data: { mails: samples.length, accepted, answered },
    measured: {
      idleMedian: { value: accepted.p50Ms, of: `${samples.length} mails` },
      idleSlow: { value: accepted.p99Ms, of: `${samples.length} mails` },
    },
    lost,
    text: [
      `${samples.length} mails, one at a time. Milliseconds from the start of the request.`,
      '',
      table(
        ['until', 'p50', 'p95', 'p99', 'max'],
        [accepted, answered].map(({ name, p50Ms, p95Ms, p99Ms, maxMs }) => [
          name,
          p50Ms,
          p95Ms,
          p99Ms,
          maxMs,
        ]),
      ),
    ].join('\n'),
  }
}
