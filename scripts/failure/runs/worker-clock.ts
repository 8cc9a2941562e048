import { setTimeout as delay } from 'node:timers/promises'
import { eventually } from '../../../test/support/eventually.ts'
import type { KillablePostgres } from '../../../test/support/killable-postgres.ts'
import { mostInWindow } from '../../../test/support/windows.ts'
import { recipientOf, runClients } from '../clients.ts'
import { untilDrained } from '../drain.ts'
import { type HookCall, startHookSink } from '../hook-sink.ts'
import { failureRun } from '../run.ts'
import { startRecordingSink } from '../sink.ts'
import { missingFaketime, openSkewedClock } from '../skewed-clock.ts'
import { spawnSluice, startPostgres } from '../sluice.ts'

const HOUR_S = 3_600
/** How far in the future mail is scheduled. */
const LATER_MS = 4_000
/** The finest thing an SMTP answer and a `Date` can be compared to. */
const EARLY_MS = 50
/** Far from an hour, and more than a busy machine needs. */
const LATE_MS = 60_000
const QUOTA_PER_S = 200
/** Providers and receivers refuse signatures that are five minutes off. */
const SIGNATURE_MS = 300_000
/** The first retry of a webhook comes after 5 s, or a fifth later. */
const HOOK_RETRY_MS = 5_000

type Scale = { readonly messages: number; readonly perS: number; readonly stepS: number }

/**
 * The clocks of an API process and of two workers are wrong, by an hour and each differently, and are set again and again.
 * A quarter of the mail goes at once, a quarter at a moment, a quarter "in 4 seconds", and a quarter is deferred first.
 */
export const workerClock = failureRun<Scale>({
  name: 'worker-clock',
  promise:
    'processes whose clocks are an hour ahead or behind, or jump, send nothing early or late, nothing twice and over no limit: the clock of Postgres counts',
  limitMinutes: 10,
  isOfPostgres: false,
  full: { messages: 4_000, perS: 40, stepS: 10 },
  short: { messages: 80, perS: 20, stepS: 2 },
  missing: missingFaketime,
  perform: async (scene, { messages, perS, stepS }) => {
    const { ledger } = scene
    const server = await startPostgres(scene)
    const arrivals = new Map<string, number[]>()
    const deferred = new Set<string>()
    const sink = await startRecordingSink(scene, {
      refusalOf: ([recipient = '']) => {
        if (kindOf(recipient) !== 'deferred' || deferred.has(recipient)) return undefined
        deferred.add(recipient)
        return '451 4.7.1 come again'
      },
      onMail: (recipients) => {
        for (const each of recipients) arrivals.set(each, [...(arrivals.get(each) ?? []), Date.now()])
      },
    })
    const hooks = await startHookSink(scene)
    const clocks = [
      await openSkewedClock(scene, HOUR_S),
      await openSkewedClock(scene, -HOUR_S),
      await openSkewedClock(scene, HOUR_S),
    ]
    const common = { SMTP_URL: sink.url, SLUICE_WEBHOOK_HOSTS: hooks.origin }
    const [api] = await Promise.all(
      clocks.map(({ environment }, index) =>
        spawnSluice(scene, server.url, {
          ...common,
          ...environment,
          SLUICE_ROLES: index === 0 ? 'api' : 'worker',
        }),
      ),
    )
    if (api === undefined) throw new Error('no process was started')
    await prepare(server)
    await api.request('/webhooks', {
      body: { endpoint: `${hooks.origin}/hook`, events: ['email.sent'] },
    })

    const dueAt = new Map<string, number>()
    const isOver = new AbortController()
    scene.after(() => isOver.abort())
    const jumping = jump(clocks, stepS, isOver.signal)
    const clients = await runClients({
      ledger,
      count: messages,
      clients: 16,
      perS,
      url: () => api.url,
      mail: (n) => {
        const recipient = recipientOf(n)
        dueAt.set(recipient, Date.now() + (kindOf(recipient).startsWith('later') ? LATER_MS : 0))
        return kindOf(recipient) === 'later'
          ? { scheduled_at: new Date(Date.now() + LATER_MS).toISOString() }
          : kindOf(recipient) === 'later, in words'
            ? { scheduled_at: `in ${LATER_MS / 1_000} seconds` }
            : {}
      },
    })
    await untilDrained(server, ledger)
    await eventually('every webhook is told twice', async () => hooks.calls.length >= 2 * messages, 60_000)
    isOver.abort()
    const jumps = await jumping

    const offMs = [...arrivals].map(([recipient, [first = 0]]) => first - (dueAt.get(recipient) ?? 0))
    const early = offMs.filter((ms) => ms < -EARLY_MS)
    const late = offMs.filter((ms) => ms > LATE_MS)
    const stored = await readStored(server)
    const most = mostInWindow([...arrivals.values()].flat(), 1_000)
    return {
      verdict: ledger.verdict(),
      longestGapS: ledger.longestGapS,
      recoveriesS: [],
      broken: [
        ...(early.length > 0
          ? [`${early.length} mails went out early, one by ${-Math.min(...early)} ms`]
          : []),
        ...(late.length > 0 ? [`${late.length} mails went out late, one by ${Math.max(...late)} ms`] : []),
        ...(most > QUOTA_PER_S ? [`${most} mails went out in one second, ${QUOTA_PER_S} may`] : []),
        ...(stored.dead > 0 ? [`${stored.dead} mails became dead letters, as if they were too old`] : []),
        ...(stored.worst_id_s > 10
          ? [`an id is ${stored.worst_id_s} s away from the acceptance of its message`]
          : []),
        ...(stored.astray > 0 ? [`${stored.astray} mails are outside the partition of their day`] : []),
        ...(stored.deaths > 0 ? [`${stored.deaths} workers were taken for dead`] : []),
        ...(clients.doubled.length > 0 ? [`${clients.doubled.length} keys were answered with two ids`] : []),
        ...hooksBroken(hooks.calls),
      ],
      figures: {
        jumps,
        'early ms, worst': Math.max(0, -Math.min(...offMs)),
        'late ms, worst': Math.max(...offMs),
        'ids off by s, worst': stored.worst_id_s,
        'most in a second': most,
        webhooks: hooks.calls.length,
      },
    }
  },
})

type Kind = 'at once' | 'later' | 'later, in words' | 'deferred'
const KINDS: readonly Kind[] = ['at once', 'later', 'later, in words', 'deferred']

function kindOf(recipient: string): Kind {
  const number = Number(/\d+/.exec(recipient)?.[0] ?? 0)
  return KINDS[number % KINDS.length] ?? 'at once'
}

/** A limit on age shorter than the clocks are off, quick retries, and a rate. */
async function prepare({ query }: KillablePostgres): Promise<void> {
  await query('update mail.stream set max_age_s = 600, backoff_base_s = 1, backoff_cap_s = 4, attempts = 5')
  await query("insert into mail.bucket (provider, name, quota) values ('default', 'second', $1)", [
    QUOTA_PER_S,
  ])
}

/** Sets each clock in turn, to right, an hour behind and an hour ahead; says how often. */
async function jump(
  clocks: readonly { set(aheadS: number): void }[],
  stepS: number,
  signal: AbortSignal,
): Promise<number> {
  let jumps = 0
  for (; !signal.aborted; jumps += 1) {
    await delay((stepS * 1_000) / clocks.length, undefined, { signal }).catch(() => undefined)
    const round = Math.floor(jumps / clocks.length)
    clocks[jumps % clocks.length]?.set([0, -HOUR_S, HOUR_S][round % 3] ?? 0)
  }
  return jumps
}

type Stored = {
  readonly dead: number
  readonly worst_id_s: number
  readonly astray: number
  readonly deaths: number
}

async function readStored({ query }: KillablePostgres): Promise<Stored> {
  const [row] = await query<Stored>(`
    select
      (count(*) filter (where status = 'dead'))::integer as dead,
      max(abs(extract(epoch from accepted_at) - ('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint / 1000.0))::double precision as worst_id_s,
      (count(*) filter (where tableoid::regclass::text <> 'mail.message_' || to_char(accepted_at at time zone 'utc', 'YYYYMMDD')))::integer as astray,
      (select count(*)::integer from mail.worker_death) as deaths
    from mail.message`)
  if (row === undefined) throw new Error('an aggregate has one row')
  return row
}

function hooksBroken(calls: readonly HookCall[]): string[] {
  const unsound = calls.filter(({ at, signedAt }) => Math.abs(at - signedAt) > SIGNATURE_MS)
  const retries = [...Map.groupBy(calls, ({ id }) => id).values()].map(
    ([first, second]) => (second?.at ?? 0) - (first?.at ?? 0),
  )
  const wrong = retries.filter((ms) => ms < HOOK_RETRY_MS - EARLY_MS || ms > HOOK_RETRY_MS + LATE_MS)
  return [
    ...(unsound.length > 0
      ? [`${unsound.length} webhooks carry a signature that receivers refuse for its time`]
      : []),
    ...(wrong.length > 0
      ? [`${wrong.length} webhooks were tried again after ${wrong[0]} ms instead of 5 s`]
      : []),
  ]
}
