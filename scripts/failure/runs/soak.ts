import { setTimeout as delay } from 'node:timers/promises'
import type { KillablePostgres } from '../../../test/support/killable-postgres.ts'
import type { SpawnedService } from '../../../test/support/service.ts'
import { insertAll, recipientOf, runClients } from '../clients.ts'
import { untilDrained } from '../drain.ts'
import { INSPECTED, liveHeapMb } from '../heap.ts'
import { startHookSink } from '../hook-sink.ts'
import { processSize } from '../process-size.ts'
import { failureRun, type Scene } from '../run.ts'
import { startRecordingSink } from '../sink.ts'
import { robustSlope } from '../slope.ts'
import { spawnSluice, startPostgres } from '../sluice.ts'
import { tableSizes } from '../table-sizes.ts'

type Scale = {
  readonly minutes: number
  readonly perS: number
  readonly lookEachS: number
  /** False: too short to tell growth from warming up. */
  readonly isJudged: boolean
}

/** Of the time, before which code is compiled, caches fill and connections open. */
const WARM_UP = 0.3
const SQL_EACH_S = 2
const SQL_ROWS = 10
const FEEDBACK_SECRET = 'soak:0123456789abcdef'

/**
 * How much each may grow in an hour. Heap and memory breathe by some megabytes, and of sockets now a dozen more are open, now
 * a dozen less; a leak of one kilobyte a message would be 360 MB at the full rate, and one of a socket in a hundred 3,600.
 */
const LIMITS_AN_HOUR = {
  'heap MB': 10,
  'resident MB': 60,
  files: 60,
  threads: 2,
  connections: 4,
  'queue tables MB': 10,
  'history bytes a message': 400,
  'WAL KB a message': 4,
} as const
type Measure = keyof typeof LIMITS_AN_HOUR
const OLDEST_TRANSACTION_S = 30

/** Tables whose rows leave with the mail; the others keep history, which grows with it. */
const QUEUE_TABLE =
  /^(?:queue |pgboss\.)|^mail\.(?:intake|outbox|claim|scheduled|bucket|provider_state|worker|consumer|depth)$/

/**
 * A shop's ordinary day, for half an hour: mail of every kind by REST and SQL, refusals now and for good, webhooks out and in,
 * and people and machines that look at it. Nothing may grow but the history.
 */
export const soak = failureRun<Scale>({
  name: 'soak',
  promise: 'under a steady mixed load memory, files, threads, connections and queue tables stay as they are',
  limitMinutes: 40,
  full: { minutes: 30, perS: 100, lookEachS: 15, isJudged: true },
  short: { minutes: 0.25, perS: 20, lookEachS: 3, isJudged: false },
  perform: async (scene, { minutes, perS, lookEachS, isJudged }) => {
    const { ledger } = scene
    const server = await startPostgres(scene)
    const refused = new Set<string>()
    const sink = await startRecordingSink(scene, {
      refusalOf: ([recipient = '']) => {
        const kind = kindOf(recipient)
        if (kind === 'refused for good') return '550 5.1.1 no such user'
        if (kind !== 'refused first' || refused.has(recipient)) return undefined
        refused.add(recipient)
        return '451 4.7.1 later'
      },
    })
    const hooks = await startHookSink(scene)
    const service = await spawnSluice(scene, server.url, {
      ...INSPECTED,
      SMTP_URL: sink.url,
      SLUICE_WEBHOOK_HOSTS: hooks.origin,
      FEEDBACK_SECRET,
    })
    await prepare(server, service, hooks.origin)

    const isOver = AbortSignal.timeout(minutes * 60_000)
    const looks = watch(scene, { server, service, lookEachS, signal: isOver })
    const others = Promise.all([
      visit(service, isOver),
      writeSql(scene, server, isOver),
      tell(service, isOver),
    ])
    await runClients({
      ledger,
      count: Number.POSITIVE_INFINITY,
      clients: 32,
      perS,
      url: () => service.url,
      mail: (n) => mailOf(recipientOf(n)),
      signal: isOver,
    })
    const seen = await looks
    const pages = await others
    await untilDrained(server, ledger)
    const growth = growthAnHour(seen.filter(({ atS }) => atS > minutes * 60 * WARM_UP))
    const oldest = Math.max(...seen.map(({ oldestTransactionS }) => oldestTransactionS))
    const tooFast = Object.entries(LIMITS_AN_HOUR).filter(
      ([name, limit]) => (growth.get(name as Measure) ?? 0) > limit,
    )
    return {
      verdict: ledger.verdict(),
      longestGapS: ledger.longestGapS,
      recoveriesS: [],
      allowedSetAside: ledger.undelivered().filter((key) => kindOf(key) === 'refused for good').length,
      broken: [
        ...(isJudged
          ? tooFast.map(
              ([name, limit]) =>
                `${name} grew by ${growth.get(name as Measure)?.toFixed(1)} an hour, ${limit} is the limit`,
            )
          : []),
        ...(isJudged && oldest > OLDEST_TRANSACTION_S ? [`a transaction was open for ${oldest} s`] : []),
        ...(pages[0].failed > 0 ? [`${pages[0].failed} of ${pages[0].asked} pages were not shown`] : []),
      ],
      figures: {
        'webhooks told': hooks.calls.length,
        'pages and scrapes': pages[0].asked,
        'oldest transaction s': oldest,
        ...Object.fromEntries([...growth].map(([name, slope]) => [`${name} an hour`, slope.toFixed(2)])),
        ...Object.fromEntries(
          Object.entries(seen.at(-1)?.values ?? {}).map(([name, value]) => [
            `${name} at the end`,
            value.toFixed(1),
          ]),
        ),
      },
    }
  },
})

const KINDS = [
  'plain',
  'template',
  'attachment',
  'later',
  'refused first',
  'plain',
  'template',
  'refused for good',
  'plain',
  'plain',
] as const

function kindOf(recipient: string): (typeof KINDS)[number] {
  return KINDS[Number(/\d+/.exec(recipient)?.[0] ?? 0) % KINDS.length] ?? 'plain'
}

function mailOf(recipient: string): Record<string, unknown> {
  switch (kindOf(recipient)) {
    case 'template':
      return {
        template: { id: 'soak', variables: { name: recipient } },
        subject: undefined,
        html: undefined,
        text: undefined,
      }
    case 'attachment':
      return {
        attachments: [
          { filename: 'note.txt', content: Buffer.from(recipient.padEnd(4_000, '.')).toString('base64') },
        ],
      }
    case 'later':
      return { scheduled_at: 'in 5 seconds' }
    default:
      return {}
  }
}

async function prepare(
  { query }: KillablePostgres,
  { request }: SpawnedService,
  origin: string,
): Promise<void> {
  await query('update mail.stream set backoff_base_s = 2')
  const draft = { name: 'soak', subject: 'Hello {{ name }}', html: '<p>Hello {{ name }}</p>' }
  const answers = [
    await request('/templates', { body: draft }),
    await request('/templates/soak/publish', { body: {} }),
    await request('/webhooks', {
      body: { endpoint: `${origin}/hook`, events: ['email.bounced', 'email.failed'] },
    }),
    await request('/webhook-sources/postmark', {
      method: 'PUT',
      body: { kind: 'postmark', secrets_env: 'FEEDBACK_SECRET' },
    }),
  ]
  for (const answer of answers)
    if (!answer.ok) throw new Error(`${answer.url} answered ${await answer.text()}`)
}

/** Somebody looks at the pages, a machine at the metrics, another at a list. */
async function visit(
  { request }: SpawnedService,
  signal: AbortSignal,
): Promise<{ asked: number; failed: number }> {
  const paths = ['/metrics', '/healthz', '/emails?limit=100', '/metrics', '/stats', '/dashboard/sign-in']
  let asked = 0
  let failed = 0
  for (; !signal.aborted; asked += 1) {
    const answer = await request(paths[asked % paths.length] ?? '/metrics')
    await answer.arrayBuffer()
    if (answer.status >= 500) failed += 1
    await pause(1_000, signal)
  }
  return { asked, failed }
}

async function writeSql({ ledger }: Scene, server: KillablePostgres, signal: AbortSignal): Promise<void> {
  for (let first = 50_000_000; !signal.aborted; first += SQL_ROWS) {
    await insertAll(server, ledger, SQL_ROWS, { first })
    await pause(SQL_EACH_S * 1_000, signal)
  }
}

/** A provider that tells of mail. */
async function tell({ url }: SpawnedService, signal: AbortSignal): Promise<void> {
  for (let n = 0; !signal.aborted; n += 1) {
    const event = {
      RecordType: 'Delivery',
      MessageID: `soak-${n}`,
      Recipient: recipientOf(n),
      DeliveredAt: new Date().toISOString(),
    }
    // One that is hung up on is told again, as by a provider.
    const answer = await repeatedly(() =>
      fetch(`${url}/webhooks/postmark/postmark`, {
        method: 'POST',
        headers: {
          Authorization: `Basic ${Buffer.from(FEEDBACK_SECRET).toString('base64')}`,
          'Content-Type': 'application/json',
        },
        body: JSON.stringify(event),
      }),
    )
    if (!answer.ok) throw new Error(`a webhook was answered with ${answer.status}: ${await answer.text()}`)
    await answer.arrayBuffer()
    await pause(500, signal)
  }
}

async function repeatedly<T>(attempt: () => Promise<T>): Promise<T> {
  return attempt().catch(attempt)
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  // Ended by the signal, which is how the load ends.
  await delay(ms, undefined, { signal }).catch(() => undefined)
}

type Look = {
  readonly atS: number
  readonly oldestTransactionS: number
  readonly values: Readonly<Record<Measure, number>>
}

type WatchOptions = {
  readonly server: KillablePostgres
  readonly service: SpawnedService
  readonly lookEachS: number
  readonly signal: AbortSignal
}

async function watch(scene: Scene, { server, service, lookEachS, signal }: WatchOptions): Promise<Look[]> {
  const startedAt = performance.now()
  const looks: Look[] = []
  let before = { wal: await walBytes(server), delivered: scene.ledger.delivered }
  for (;;) {
    await pause(lookEachS * 1_000, signal)
    if (signal.aborted) return looks
    // Right after a collection, so that garbage does not count.
    const heapMb = await liveHeapMb(service)
    const { residentMb, files, threads } = processSize(service.pid)
    const tables = await tableSizes(server)
    const sum = (isQueue: boolean) =>
      tables
        .filter(({ name }) => QUEUE_TABLE.test(name) === isQueue)
        .reduce((bytes, { tableBytes, indexBytes }) => bytes + tableBytes + indexBytes, 0)
    const now = { wal: await walBytes(server), delivered: scene.ledger.delivered }
    const [activity] = await server.query<{ connections: number; oldest_s: number }>(`
      select count(*) filter (where application_name like 'sluice%')::integer as connections,
        coalesce(max(extract(epoch from clock_timestamp() - xact_start)), 0)::double precision as oldest_s
      from pg_stat_activity where backend_type = 'client backend'`)
    const look = {
      atS: (performance.now() - startedAt) / 1_000,
      oldestTransactionS: activity?.oldest_s ?? 0,
      values: {
        'heap MB': heapMb,
        'resident MB': residentMb,
        files,
        threads,
        connections: activity?.connections ?? 0,
        'queue tables MB': sum(true) / 1e6,
        'history bytes a message': sum(false) / Math.max(1, now.delivered),
        'WAL KB a message': (now.wal - before.wal) / 1e3 / Math.max(1, now.delivered - before.delivered),
      },
    }
    before = now
    looks.push(look)
    const { values } = look
    scene.say(
      `${Math.round(look.atS)} s: ${Object.entries(values)
        .map(([name, value]) => `${name} ${value.toFixed(1)}`)
        .join(', ')}`,
    )
  }
}

async function walBytes({ query }: KillablePostgres): Promise<number> {
  const [row] = await query<{ bytes: string }>("select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') as bytes")
  return Number(row?.bytes)
}

function growthAnHour(looks: readonly Look[]): Map<Measure, number> {
  const names = Object.keys(LIMITS_AN_HOUR) as Measure[]
  return new Map(
    names.map((name) => [
      name,
      robustSlope(looks.map(({ atS, values }) => ({ x: atS / 3_600, y: values[name] }))),
    ]),
  )
}
