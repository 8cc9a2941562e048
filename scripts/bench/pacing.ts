/**
 * One to four worker processes share one bucket while mail waits: how many mails the sink gets in any
 * second, against the provider's quota, and on average, against the share of it that is used.
 */
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import type { Client } from 'pg'
import { SMTPServer } from 'smtp-server'
import { mostInWindow, ratePerS } from '../../test/support/windows.ts'
import type { BenchOptions, Findings } from './report.ts'
import { type Rig, startService, withClient } from './rig.ts'
import { readable, table } from './statistics.ts'
import { firstSeq, untilQueued, untilSettled } from './stored.ts'

const QUOTA_PER_S = 100
const UTILIZATION = 0.85
const WINDOW_MS = 1_000
/** What may have gathered before the start is gone by then. */
const SETTLE_MS = 1_000

type Run = {
  readonly processes: number
  readonly mails: number
  readonly most: number
  readonly perS: number
  readonly lost: number
}

export async function pacing(rig: Rig, options: BenchOptions): Promise<Findings> {
  const runs: Run[] = []
  for (const processes of options.pacingProcesses) {
    const run = await runWith(rig, options, processes)
    runs.push(run)
    options.say(`pacing, ${processes} processes: at most ${run.most} in a second, ${readable(run.perS)}/s`)
  }
  return findingsOf(runs)
}

async function runWith(rig: Rig, options: BenchOptions, processes: number): Promise<Run> {
  const databaseUrl = await rig.createDatabase(`pacing_${processes}`)
  const sink = await startClock()
  const start = (profileDir: string | undefined) =>
    startService(rig, { databaseUrl, smtpUrl: sink.url, roles: 'worker', profileDir })
  const services = [await start(options.profileDir)]
  while (services.length < processes) services.push(await start(undefined))
  const count = options.pacingSeconds * QUOTA_PER_S * UTILIZATION
  const lost = await withClient(databaseUrl, async (client) => {
    const seq = await letWait(client, count)
    await client.query("select mail.resume('default')")
    return (await untilSettled(client, seq, count)).lost
  })
  for (const service of services) await service.stop()
  await sink.close()
  const perS = ratePerS(sink.times, SETTLE_MS)
  return { processes, mails: count, most: mostInWindow(sink.times, WINDOW_MS), perS, lost }
}

/** All of it processed, and held back by a pause: then nothing but the tokens decides when it goes. */
async function letWait(client: Client, count: number): Promise<string> {
  await client.query("select mail.pause('default')")
  await client.query(
    `insert into mail.bucket (provider, name, quota, window_s, utilization)
     values ('default', 'second', $1, $2, $3)`,
    [QUOTA_PER_S, WINDOW_MS / 1_000, UTILIZATION],
  )
  const seq = await firstSeq(client)
  await client.query(
    `insert into mail.outbox (message)
     select json_build_object('from', 'shop@example.com', 'to', 'user' || n || '@example.net', 'subject', 'Hello', 'text', 'Hi')
     from generate_series(1, $1::integer) n`,
    [count],
  )
  await untilQueued(client, seq, count)
  return seq
}

/** A sink that notes when each mail has come. */
async function startClock(): Promise<{ url: string; times: readonly number[]; close(): Promise<void> }> {
  const times: number[] = []
  const server = new SMTPServer({
    disabledCommands: ['STARTTLS', 'AUTH'],
    disableReverseLookup: true,
    logger: false,
    onData: (stream, _session, callback) => {
      stream.on('end', () => {
        times.push(performance.now())
        callback()
      })
      stream.resume()
    },
  })
  // A worker that stops hangs up; that is not the sink's trouble.
  server.on('error', (error) => console.error('sink:', error.message))
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const { port } = server.server.address() as AddressInfo
  const close = () => new Promise<void>((resolve) => server.close(resolve))
  return { url: `smtp://127.0.0.1:${port}`, times, close }
}

function findingsOf(runs: readonly Run[]): Findings {
  const wanted = QUOTA_PER_S * UTILIZATION
  const offBy = Math.max(...runs.map(({ perS }) => Math.abs(perS / wanted - 1) * 100))
  const over = runs.filter(({ most }) => most > QUOTA_PER_S)
  const ofProcesses = `${runs.map(({ processes }) => processes).join(', ')} processes`
  return {
    data: runs,
    measured: {
      quota: { value: Math.max(...runs.map(({ most }) => most)), of: ofProcesses },
      share: { value: offBy, of: ofProcesses },
    },
    lost: runs.reduce((sum, { lost }) => sum + lost, 0),
    broken: over.map(
      ({ processes, most }) =>
        `with ${processes} processes ${most} mails went out within a second, ${QUOTA_PER_S} are allowed`,
    ),
    text: [
      `A bucket of ${QUOTA_PER_S} a second, of which ${UTILIZATION * 100} % are used: ${readable(wanted)}/s.`,
      '',
      table(
        ['worker processes', 'mails', 'most in any second', 'quota', 'average/s', 'wanted/s', 'lost'],
        runs.map(({ processes, mails, most, perS, lost }) =>
          [processes, mails, most, QUOTA_PER_S, readable(perS), readable(wanted), lost].map(String),
        ),
      ),
    ].join('\n'),
  }
}
