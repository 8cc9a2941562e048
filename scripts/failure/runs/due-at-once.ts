import { setTimeout as delay } from 'node:timers/promises'
import { eventually } from '../../../test/support/eventually.ts'
import type { KillablePostgres } from '../../../test/support/killable-postgres.ts'
import { orderMail, type SpawnedService } from '../../../test/support/service.ts'
import { mostInWindow } from '../../../test/support/windows.ts'
import { percentile } from '../../bench/statistics.ts'
import { watchDisk } from '../disk-stalls.ts'
import { untilDrained } from '../drain.ts'
import { INSPECTED, liveHeapMb } from '../heap.ts'
import type { Ledger } from '../ledger.ts'
import { processSize } from '../process-size.ts'
import { failureRun } from '../run.ts'
import { startRecordingSink } from '../sink.ts'
import { spawnSluice, startPostgres } from '../sluice.ts'

type Scale = {
  readonly messages: number
  /** Jobs of the shared provider's queues that are for another day, and older than all that are due. */
  readonly notYetDue: number
  readonly sharedPerS: number
  readonly ownPerS: number
  readonly domainPerS: number
  /** So many may go to the domain beyond its quota, after a silence. */
  readonly domainBurst: number
  /** And so many beyond that, when the disk has held up their claim. */
  readonly domainHeldUp: number
  /** Jain’s index, half-way; undefined: reported only, as of few messages the second by which one stream begins earlier is most. */
  readonly fairness: number | undefined
  /** On a machine with other work to do a mail may come so much later than its token was taken. */
  readonly lateByS: number
  /** Limits that a machine with other work to do may pass; undefined: reported only. Beside them, as long as its disk stood still. */
  readonly urgentLimitS: number | undefined
  readonly statementLimitMs: number | undefined
}

/** Streams of everyday mail, each with its share of it. */
const STREAMS = [
  { name: 'digest', provider: 'default', priority: 6 },
  { name: 'newsletter', provider: 'default', priority: 6 },
  { name: 'billing', provider: 'own', priority: 5 },
] as const
type StreamName = (typeof STREAMS)[number]['name']

const LIMITED_DOMAIN = 'limited.example'
/** Every so many go there. */
const LIMITED_EVERY = 40
const SOURCES = 10
const RESET_EVERY_MS = 500
/** What a process may take under load, as docs/guarantees.md promises. */
const MEMORY_MB = 300
const INSERT_ROWS = 2_000
/** When the disk keeps a commit waiting for so long, mail whose turn was given before it comes together with the next. */
const STALL_MS = 250

/**
 * Both providers are away while mail comes in. Half of it is to go at once and waits for them, half is scheduled for the moment
 * at which they come back. Then all of it is due.
 */
export const dueAtOnce = failureRun<Scale>({
  name: 'due-at-once',
  promise:
    'everything due at one moment goes out within every rate, fair to streams and senders alike, and urgent mail passes it by',
  limitMinutes: 30,
  full: {
    messages: 100_000,
    notYetDue: 300_000,
    sharedPerS: 1_000,
    ownPerS: 500,
    domainPerS: 20,
    domainBurst: 5,
    domainHeldUp: 5,
    fairness: 0.95,
    lateByS: 0,
    urgentLimitS: 1,
    statementLimitMs: 1_000,
  },
  short: {
    messages: 300,
    notYetDue: 5_000,
    sharedPerS: 60,
    ownPerS: 40,
    domainPerS: 4,
    domainBurst: 1,
    domainHeldUp: 0,
    fairness: undefined,
    lateByS: 0.5,
    urgentLimitS: undefined,
    statementLimitMs: undefined,
  },
  perform: async (scene, scale) => {
    const { ledger } = scene
    const server = await startPostgres(scene, { shared_preload_libraries: 'pg_stat_statements' })
    let isAway = true
    const arrivals: Arrival[] = []
    const openSink = (provider: string) =>
      startRecordingSink(scene, {
        refusalOf: () => (isAway ? '421 4.3.2 away' : undefined),
        onMail: ([key = '']) => {
          arrivals.push({ key, provider, at: performance.now() })
        },
      })
    const [shared, own] = [await openSink('default'), await openSink('own')]
    const environment = { ...INSPECTED, SMTP_URL: shared.url, OWN_URL: own.url, SLUICE_ROLES: 'worker' }
    const workers = [await spawnSluice(scene, server.url, environment)]
    await prepare(server, scale)
    workers.push(await spawnSluice(scene, server.url, environment))

    const dueAt = new Date(Date.now() + Math.max(3_000, scale.messages / 2))
    const handed = await handIn(server, ledger, scale.messages, dueAt)
    await untilReady(server, dueAt)
    await server.query('select pg_stat_statements_reset()')
    scene.say(`${scale.messages} are due`)
    isAway = false
    const backAt = performance.now()
    const memory = watchMemory(workers)
    const disk = await watchDisk(scene, server.dataDir)
    const resets = sendResets(server, ledger, () => ledger.delivered < scale.messages)
    await untilDrained(server, ledger)
    const resetTimes = await resets
    const memoryMb = memory.stop()
    const stallMs = await disk.stop()
    const domainMost = scale.domainPerS + scale.domainBurst + (stallMs > STALL_MS ? scale.domainHeldUp : 0)
    const heapMb = Math.max(...(await Promise.all(workers.map(liveHeapMb))))

    const timesOf = (provider: string) =>
      arrivals.filter((each) => each.provider === provider).map(({ at }) => at)
    const limited = arrivals.filter(({ key }) => key.endsWith(LIMITED_DOMAIN)).map(({ at }) => at)
    const most = {
      shared: mostInWindow(timesOf('default'), 1_000),
      own: mostInWindow(timesOf('own'), 1_000),
      domain: mostInWindow(limited, 1_000),
    }
    const fairness = fairnessOf(arrivals, handed)
    const firstAt = arrivals.find(({ at }) => at > backAt)?.at ?? Number.POSITIVE_INFINITY
    // Until a breaker has found out that its provider is back, nothing can go.
    const waits = [...resetTimes]
      .filter(([, at]) => at > firstAt)
      .map(
        ([key, at]) =>
          ((arrivals.find((each) => each.key === key)?.at ?? Number.POSITIVE_INFINITY) - at) / 1_000,
      )
    const statements = await readStatements(server)
    return {
      verdict: ledger.verdict(),
      longestGapS: ledger.longestGapS,
      recoveriesS: [(firstAt - backAt) / 1_000],
      broken: [
        ...over('the shared provider', most.shared, scale.sharedPerS, scale.lateByS),
        ...over('the stream’s own provider', most.own, scale.ownPerS, scale.lateByS),
        ...over(LIMITED_DOMAIN, most.domain, domainMost, scale.lateByS),
        ...(scale.fairness !== undefined && Math.min(fairness.streams, fairness.sources) < scale.fairness
          ? [
              `half-way Jain’s index is ${fairness.streams.toFixed(3)} over streams and ${fairness.sources.toFixed(3)} over senders, ${scale.fairness} is promised`,
            ]
          : []),
        ...(scale.urgentLimitS !== undefined && percentile(waits, 99) > scale.urgentLimitS + stallMs / 1_000
          ? [
              `password resets waited ${percentile(waits, 99).toFixed(2)} s (p99), ${scale.urgentLimitS} is promised`,
            ]
          : []),
        ...(scale.statementLimitMs !== undefined && statements.longestMs > scale.statementLimitMs + stallMs
          ? [`a statement took ${Math.round(statements.longestMs)} ms: ${statements.longest}`]
          : []),
        ...(memoryMb > MEMORY_MB ? [`a worker had ${memoryMb} MB resident, ${MEMORY_MB} are promised`] : []),
      ],
      figures: {
        'most in a second, shared provider': most.shared,
        'own provider': most.own,
        'limited domain': most.domain,
        'Jain over streams': fairness.streams,
        'Jain over senders': fairness.sources,
        'out of order by, p95 of messages': fairness.displacedP95,
        'reset s p50': percentile(waits, 50),
        'reset s p99': percentile(waits, 99),
        'reset ms until moved, queued, claimed, settled (p50)': await stagesOf(server),
        'longest statement ms': Math.round(statements.longestMs),
        'disk stood still ms, at most': stallMs,
        'fetch ms mean': statements.fetchMs,
        'worker MB resident at most': memoryMb,
        'worker MB in the heap at the end': heapMb,
      },
    }
  },
})

type Arrival = { readonly key: string; readonly provider: string; readonly at: number }
type Handed = {
  readonly stream: StreamName
  readonly source: string
  /** Its place among those of its stream that were to go at once; undefined of scheduled ones. */
  readonly nth: number | undefined
}

function over(what: string, most: number, quotaPerS: number, lateByS: number): string[] {
  const limit = Math.floor(quotaPerS * (1 + lateByS))
  return most > limit ? [`${most} mails went to ${what} in one second, ${limit} may`] : []
}

async function prepare({ query }: KillablePostgres, scale: Scale): Promise<void> {
  await query('create extension pg_stat_statements')
  await query(
    "insert into mail.provider (name, transport, credentials_env) values ('own', 'smtp', 'OWN_URL')",
  )
  for (const { name, priority, provider } of STREAMS) {
    await query('insert into mail.stream (name, priority, route) values ($1, $2, array[$3])', [
      name,
      priority,
      provider,
    ])
  }
  await query(
    "insert into mail.bucket (provider, name, quota) values ('default', 'second', $1), ('own', 'second', $2)",
    [scale.sharedPerS, scale.ownPerS],
  )
  await query('insert into mail.domain_limit (domain, quota, window_s, burst) values ($1, $2, 1, $3)', [
    LIMITED_DOMAIN,
    scale.domainPerS,
    scale.domainBurst,
  ])
  // Long outages may keep a breaker open for two minutes; how soon it tries again is not what this run is about.
  await query('update mail.provider set breaker_cooldown_cap_s = 5')
  await eventually('the worker has found the stream and made its queue', async () => {
    return (await query("select from pgboss.queue where name = 'dispatch.default.digest'")).length > 0
  })
  await query(
    `insert into pgboss.job (name, policy, priority, retry_limit, expire_seconds, keep_until, start_after)
     select 'dispatch.default.digest', 'standard', 3, 10000, 900, now() + interval '2 days', now() + interval '1 day'
     from generate_series(1, $1::integer)`,
    [scale.notYetDue],
  )
}

/** Hands in all of it; each second message of a stream is scheduled. */
async function handIn(
  { query }: KillablePostgres,
  ledger: Ledger,
  count: number,
  dueAt: Date,
): Promise<ReadonlyMap<string, Handed>> {
  const handed = new Map<string, Handed>()
  const nth = new Map<StreamName, number>()
  for (let first = 0; first < count; first += INSERT_ROWS) {
    const rows = Array.from({ length: Math.min(INSERT_ROWS, count - first) }, (_, index) => {
      const n = first + index
      const { name: stream } = STREAMS[n % STREAMS.length] ?? STREAMS[0]
      const isScheduled = Math.floor(n / STREAMS.length) % 2 === 1
      const source = `app-${Math.floor(n / STREAMS.length / 2) % SOURCES}`
      const key = `user${n}@${n % LIMITED_EVERY === 0 ? LIMITED_DOMAIN : 'run.example'}`
      const place = nth.get(stream) ?? 0
      if (!isScheduled) nth.set(stream, place + 1)
      handed.set(key, { stream, source, nth: isScheduled ? undefined : place })
      ledger.attempt(key)
      return { key, stream, source, scheduled_at: isScheduled ? dueAt.toISOString() : undefined }
    })
    const stored = await query<{ id: string; key: string }>(
      `insert into mail.outbox (message, stream, source)
       select json_strip_nulls(($1::jsonb || jsonb_build_object('to', key, 'scheduled_at', scheduled_at))::json), stream, source
       from json_to_recordset($2::json) as row (key text, stream text, source text, scheduled_at text)
       returning id, message->>'to' as key`,
      [JSON.stringify(orderMail()), JSON.stringify(rows)],
    )
    for (const { id, key } of stored) ledger.acknowledge(key, id)
  }
  return handed
}

/** Until all of it waits for its provider, and the moment has come. */
async function untilReady({ query }: KillablePostgres, dueAt: Date): Promise<void> {
  for (;;) {
    const [row] = await query<{ moving: boolean }>(
      `select exists (select from mail.outbox) or exists (select from mail.message where status in ('accepted', 'scheduled')) as moving`,
    )
    if (row?.moving === false && Date.now() >= dueAt.getTime()) return
    await delay(200)
  }
}

/** A password reset every half second as long as `isGoing`; when each was handed in. */
async function sendResets(
  { query }: KillablePostgres,
  ledger: Ledger,
  isGoing: () => boolean,
): Promise<ReadonlyMap<string, number>> {
  const sentAt = new Map<string, number>()
  while (isGoing()) {
    const key = `reset${sentAt.size}@run.example`
    ledger.attempt(key)
    sentAt.set(key, performance.now())
    const [row] = await query<{ id: string }>(
      'insert into mail.outbox (message) values ($1::json) returning id',
      [JSON.stringify({ ...orderMail(), subject: 'Your new password', to: key })],
    )
    ledger.acknowledge(key, row?.id ?? '')
    await delay(RESET_EVERY_MS)
  }
  return sentAt
}

/** When half of it is out: how evenly that is spread over streams of one provider and over senders; and how far from its order. */
function fairnessOf(
  arrivals: readonly Arrival[],
  handed: ReadonlyMap<string, Handed>,
): { streams: number; sources: number; displacedP95: number } {
  const ofHerd = arrivals.flatMap(({ key }) => handed.get(key) ?? [])
  const half = ofHerd.slice(0, ofHerd.length / 2)
  const sharing = STREAMS.filter(({ provider }) => provider === 'default').map(({ name }) => name)
  const countOf = (test: (each: Handed) => boolean) => half.filter(test).length
  const displaced = STREAMS.flatMap(({ name }) =>
    ofHerd
      .flatMap(({ stream, nth }) => (stream === name && nth !== undefined ? [nth] : []))
      .map((nth, place) => Math.abs(nth - place)),
  )
  return {
    streams: jainOf(sharing.map((name) => countOf(({ stream }) => stream === name))),
    sources: jainOf(
      Array.from({ length: SOURCES }, (_, n) => countOf(({ source }) => source === `app-${n}`)),
    ),
    displacedP95: percentile(displaced, 95),
  }
}

/** Jain's fairness index: 1 when all have the same, 1/n when one has everything. */
function jainOf(shares: readonly number[]): number {
  const sum = shares.reduce((a, b) => a + b, 0)
  const squares = shares.reduce((a, b) => a + b * b, 0)
  return sum ** 2 / (shares.length * squares)
}

/** The most that any of them had resident, in MB. */
function watchMemory(services: readonly SpawnedService[]): { stop(): number } {
  let most = 0
  const look = () => {
    for (const { pid } of services) most = Math.max(most, Math.round(processSize(pid).residentMb))
  }
  const timer = setInterval(look, 500)
  return {
    stop: () => {
      clearInterval(timer)
      look()
      return most
    },
  }
}

/** Where a password reset spends its time. */
async function stagesOf({ query }: KillablePostgres): Promise<string> {
  const [row] = await query<{ stages: number[] }>(`
    select
      array[
        percentile_disc(0.5) within group (order by (extract(epoch from first.at - m.accepted_at) * 1000)::integer),
        percentile_disc(0.5) within group (order by (extract(epoch from m.queued_at - first.at) * 1000)::integer),
        percentile_disc(0.5) within group (order by (extract(epoch from m.claimed_at - m.queued_at) * 1000)::integer),
        percentile_disc(0.5) within group (order by (extract(epoch from m.sent_at - m.claimed_at) * 1000)::integer)
      ] as stages
    from mail.message m
    cross join lateral (select min(e.at) as at from mail.event e where e.message_id = m.id) first
    where m.stream = 'transactional'`)
  return (row?.stages ?? []).join(', ')
}

async function readStatements({
  query,
}: KillablePostgres): Promise<{ longestMs: number; longest: string; fetchMs: number }> {
  const [row] = await query<{ ms: number; text: string; fetch_ms: number | null }>(
    `select max_exec_time as ms, left(regexp_replace(query, '\\s+', ' ', 'g'), 80) as text,
       (select sum(total_exec_time) / sum(calls) from pg_stat_statements where query like '%started_on = now(), heartbeat_on = now()%') as fetch_ms
     from pg_stat_statements
     -- The run's own questions are asked by another role.
     where userid = 'mail_service'::regrole
     order by max_exec_time desc limit 1`,
  )
  return { longestMs: row?.ms ?? 0, longest: row?.text ?? '', fetchMs: row?.fetch_ms ?? 0 }
}
