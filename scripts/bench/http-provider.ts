/**
 * Order confirmations to a provider's HTTP API, one a request and in batches: a stand-in on this machine answers at once,
 * which shows what a mail costs here, and then only after a while, as one does that is far away.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { Client } from 'pg'
import { cpuBetween, readCpu } from './cpu.ts'
import { insertMails } from './inserts.ts'
import { orderMessage } from './order.ts'
import { type ApiName, type Provider, startProvider } from './provider.ts'
import type { BenchOptions, Findings } from './report.ts'
import { publishTemplate, type Rig, startService, withClient } from './rig.ts'
import { readable, table } from './statistics.ts'
import { firstSeq, untilSettled } from './stored.ts'

const APIS: readonly { readonly api: ApiName; readonly kind: string }[] = [
  { api: 'sendgrid', kind: 'one mail a request' },
  { api: 'resend', kind: 'batches of up to 100' },
  { api: 'postmark', kind: 'batches of up to 500' },
]
/** At once, and after what a request to another region of a cloud takes. */
const ANSWERS_AFTER_MS = [0, 50]
const KEY = 'key-0123456789abcdef'
const WARM_UP_SHARE = 0.2
/** Nobody listens there: no mail goes to the provider `default`. */
const NO_RELAY = 'smtp://127.0.0.1:9'
const STREAM = 'transactional'
/** Until every process knows a new provider; the catalog is read once a second. */
const CATALOG_MS = 2_000

type Run = {
  readonly api: ApiName
  readonly kind: string
  readonly answersAfterMs: number
  readonly perS: number
  readonly mailsARequest: number
  readonly cpuMs: { readonly sluice: number; readonly postgres: number }
  readonly lost: number
}

export async function httpProvider(rig: Rig, options: BenchOptions): Promise<Findings> {
  const runs: Run[] = []
  for (const answersAfterMs of ANSWERS_AFTER_MS) {
    for (const which of APIS) {
      const run = await runWith(rig, options, { ...which, answersAfterMs })
      runs.push(run)
      options.say(`http-provider, ${run.api} after ${answersAfterMs} ms: ${readable(run.perS)}/s`)
    }
  }
  return findingsOf(runs, options)
}

async function runWith(
  rig: Rig,
  { providerMails, profileDir }: BenchOptions,
  which: Pick<Run, 'api' | 'kind' | 'answersAfterMs'>,
): Promise<Run> {
  const { api, answersAfterMs } = which
  const databaseUrl = await rig.createDatabase(`http_${api}_${answersAfterMs}`)
  const provider = await startProvider(rig.guard, api, answersAfterMs)
  const environment = { STAND_IN_KEY: KEY }
  const service = await startService(rig, {
    databaseUrl,
    smtpUrl: NO_RELAY,
    roles: 'api,worker',
    profileDir,
    environment,
  })
  await publishTemplate(service.url)
  const run = await withClient(databaseUrl, async (client) => {
    await routeTo(client, api, provider)
    const warmUp = Math.ceil(providerMails * WARM_UP_SHARE)
    const warm = await sendThrough(client, provider, 0, warmUp)
    const watched = [service.watched, rig.postgres]
    const before = readCpu(watched)
    const { perS, requests, lost } = await sendThrough(client, provider, warmUp, providerMails)
    const cpu = cpuBetween(before, readCpu(watched))
    const ms = (name: string) => ((cpu.get(name) ?? 0) * 1e3) / providerMails
    return {
      ...which,
      perS,
      mailsARequest: providerMails / (requests - warm.requests),
      cpuMs: { sluice: ms('sluice'), postgres: ms('postgres') },
      lost: lost + warm.lost,
    }
  })
  await service.stop()
  provider.close()
  return run
}

async function routeTo(client: Client, api: ApiName, provider: Provider): Promise<void> {
  await client.query(
    'insert into mail.provider (name, transport, credentials_env, base_url) values ($1, $1, $2, $3)',
    [api, 'STAND_IN_KEY', provider.url],
  )
  await client.query('update mail.stream set route = array[$1] where name = $2', [api, STREAM])
  await delay(CATALOG_MS)
}

/** `before`: so many came already. */
async function sendThrough(client: Client, provider: Provider, before: number, count: number) {
  const seq = await firstSeq(client)
  const startedAt = process.hrtime.bigint()
  const reached = provider.reached(before + count)
  await insertMails(client, count, orderMessage)
  const { at, requests } = await reached
  const { lost } = await untilSettled(client, seq, count)
  return { perS: count / (Number(at - startedAt) / 1e9), requests, lost }
}

function findingsOf(runs: readonly Run[], { providerMails }: BenchOptions): Findings {
  return {
    data: { mails: providerMails, runs },
    lost: runs.reduce((sum, { lost }) => sum + lost, 0),
    text: [
      `${providerMails.toLocaleString('en-US')} order confirmations each, everything at its default, one process. CPU in milliseconds a mail.`,
      '',
      table(
        ['API', 'answers after', 'mails/s', 'mails a request', 'CPU Sluice', 'Postgres', 'lost'],
        runs.map(({ api, kind, answersAfterMs, perS, mailsARequest, cpuMs, lost }) => [
          `${api}, ${kind}`,
          answersAfterMs === 0 ? 'at once' : `${answersAfterMs} ms`,
          perS,
          mailsARequest,
          cpuMs.sluice,
          cpuMs.postgres,
          String(lost),
        ]),
      ),
    ].join('\n'),
  }
}
