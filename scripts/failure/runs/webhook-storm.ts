import { eventually } from '../../../test/support/eventually.ts'
import { insertMessages } from '../../../test/support/feedback.ts'
import type { KillablePostgres } from '../../../test/support/killable-postgres.ts'
import type { Ledger } from '../ledger.ts'
import {
  callOf,
  deliver,
  eventsPerCall,
  FORGERIES,
  forgeryOf,
  keyOf,
  type ProviderEvent,
  SECRETS,
  SOURCES,
  type SourceKind,
} from '../provider-events.ts'
import { failureRun } from '../run.ts'
import { spawnSluice, startPostgres } from '../sluice.ts'

const EVENTS_A_MESSAGE = 5
const COPIES = 5
const CLIENTS = 32
/** Less than the age at which a proof is worth nothing any more. */
const REPLAYABLE_MS = 240_000
/** Rows of one statement. */
const MESSAGES_A_PIECE = 1_000

/**
 * Providers tell everything five times, in no order, to two processes at once, and a tenth as much comes from somebody else.
 * Here the ledger's messages are events: acknowledged when a provider was told that it is taken, delivered when it counts.
 */
export const webhookStorm = failureRun({
  name: 'webhook-storm',
  promise:
    'Each provider event counts once, whatever its order and however often it comes, and a forged one never',
  limitMinutes: 30,
  full: { events: 50_000, processes: 2 },
  short: { events: 300, processes: 1 },
  perform: async (scene, { events: count, processes }) => {
    const server = await startPostgres(scene)
    const urls: string[] = []
    while (urls.length < processes) urls.push((await spawnSluice(scene, server.url, SECRETS)).url)
    await server.query(
      `insert into mail.webhook_source (name, kind, secrets_env)
       select 'storm-' || kind, kind, 'STORM_' || upper(kind) from unnest($1::text[]) kind`,
      [[...SOURCES]],
    )
    const messages = await storeSent(server, count / EVENTS_A_MESSAGE)
    const deliveries = deliveriesOf(messages.flatMap(eventsOf))
    for (const { events } of deliveries) for (const event of events) scene.ledger.attempt(keyOf(event))
    const requests = shuffled([...genuine(deliveries, scene.ledger), ...forged(deliveries, messages)])
    scene.say(`${requests.length} requests`)
    const startedAt = performance.now()
    const { accepted, refused } = await sendAll(requests, urls)
    const sentS = (performance.now() - startedAt) / 1_000
    await eventually('all deliveries are applied', () => isApplied(server), 600_000)
    const states = await compareStates(server, messages, scene.ledger)
    return {
      verdict: scene.ledger.verdict(),
      longestGapS: 0,
      recoveriesS: [],
      broken: [
        ...(refused > 0 ? [`${refused} genuine deliveries were refused`] : []),
        ...(accepted > 0 ? [`${accepted} forged deliveries were accepted`] : []),
        ...states,
      ],
      figures: {
        requests: requests.length,
        forged: requests.filter(({ isForged }) => isForged).length,
        'requests a second': Math.round(requests.length / sentS),
      },
    }
  },
})

type SentMessage = { readonly id: string; readonly recipient: string; readonly n: number }

async function storeSent(server: KillablePostgres, count: number): Promise<SentMessage[]> {
  const messages: SentMessage[] = []
  while (messages.length < count) {
    const first = messages.length
    const recipients = Array.from(
      { length: Math.min(MESSAGES_A_PIECE, count - first) },
      (_, place) => `user${first + place}@run.example`,
    )
    const ids = await insertMessages(
      server,
      recipients.map((recipient) => ({ to: [recipient] })),
    )
    messages.push(...ids.map((id, place) => ({ id, recipient: recipients[place] ?? '', n: first + place })))
  }
  return messages
}

/** One in ten bounces, one in 25 complains; nobody does both. */
function lastTypeOf(n: number): ProviderEvent['type'] {
  if (n % 10 === 0) return 'bounced'
  return n % 25 === 1 ? 'complained' : 'opened'
}

function eventsOf({ id, recipient, n }: SentMessage): ProviderEvent[] {
  const firstS = Math.floor(Date.now() / 1_000) - 3_600
  const types = ['delivered', 'opened', 'clicked', 'opened', lastTypeOf(n)] as const
  return types.map((type, place) => ({ messageId: id, recipient, type, atS: firstS + place }))
}

type Delivery = { readonly kind: SourceKind; readonly events: readonly ProviderEvent[] }

/** Events of a message come from different providers: no one of them knows all that happened. */
function deliveriesOf(events: readonly ProviderEvent[]): Delivery[] {
  return SOURCES.flatMap((kind, nth) => {
    const own = events.filter(
      (_, place) => (place + Math.floor(place / SOURCES.length)) % SOURCES.length === nth,
    )
    const size = eventsPerCall(kind)
    return Array.from({ length: Math.ceil(own.length / size) }, (_, place) => ({
      kind,
      events: own.slice(place * size, (place + 1) * size),
    }))
  })
}

type Request = { readonly isForged: boolean; readonly send: (url: string) => Promise<number> }

/** Each five times: three with proofs of their own, and two exact replays of one that was seen on the way. */
function genuine(deliveries: readonly Delivery[], ledger: Ledger): Request[] {
  return deliveries.flatMap(({ kind, events }) => {
    const signed = () => callOf(kind, events, Date.now())
    let seen: { readonly call: ReturnType<typeof signed>; readonly at: number } | undefined
    const replayed = () => {
      if (seen === undefined || performance.now() - seen.at > REPLAYABLE_MS) {
        seen = { call: signed(), at: performance.now() }
      }
      return seen.call
    }
    return Array.from({ length: COPIES }, (_, copy) => ({
      isForged: false,
      send: async (url: string) => {
        const status = await deliver(url, kind, copy < 3 ? signed : replayed)
        if (status === 200) for (const event of events) ledger.acknowledge(keyOf(event), keyOf(event))
        return status
      },
    }))
  })
}

/** A tenth as many: each would make somebody a complainer who never complained. */
function forged(deliveries: readonly Delivery[], messages: readonly SentMessage[]): Request[] {
  const victims = messages.filter(({ n }) => lastTypeOf(n) === 'opened')
  const count = Math.ceil((deliveries.length * COPIES) / 10)
  return Array.from({ length: count }, (_, nth) => {
    const { kind, events } = deliveries[(nth * 7) % deliveries.length] as Delivery
    const { id, recipient } = victims[nth % victims.length] as SentMessage
    const wish = {
      messageId: id,
      recipient,
      type: 'complained',
      atS: Math.floor(Date.now() / 1_000),
    } as const
    const forgery = FORGERIES[nth % FORGERIES.length] ?? 'altered'
    return {
      isForged: true,
      send: async (url: string) => {
        if (kind === 'mailgun' && forgery === 'used token') return useTokenAgain(url, events, wish)
        return deliver(url, kind, () => forgeryOf(forgery, kind, { real: events, wish }, Date.now()))
      },
    }
  })
}

/** The provider's own request comes first, and is taken; what comes under its token afterwards is answered as a repeat. */
async function useTokenAgain(
  url: string,
  real: readonly ProviderEvent[],
  wish: ProviderEvent,
): Promise<number> {
  const nowMs = Date.now()
  await deliver(url, 'mailgun', () => callOf('mailgun', real, nowMs))
  const status = await deliver(url, 'mailgun', () =>
    forgeryOf('used token', 'mailgun', { real, wish }, nowMs),
  )
  // Whether it counted shows in the states.
  return status === 200 ? 401 : status
}

async function sendAll(
  requests: readonly Request[],
  urls: readonly string[],
): Promise<{ accepted: number; refused: number }> {
  const tally = { accepted: 0, refused: 0 }
  let next = 0
  const client = async () => {
    while (next < requests.length) {
      const place = next
      next += 1
      const { isForged, send } = requests[place] as Request
      const status = await send(urls[place % urls.length] ?? '')
      if (isForged && status !== 401) tally.accepted += 1
      if (!isForged && status !== 200) tally.refused += 1
    }
  }
  await Promise.all(Array.from({ length: CLIENTS }, client))
  return tally
}

async function isApplied(server: KillablePostgres): Promise<boolean> {
  const rows = await server.query(`select from mail.feedback where state = 'waiting' limit 1`)
  return rows.length === 0
}

/** What the tables say, against what the genuine events mean. */
async function compareStates(
  server: KillablePostgres,
  messages: readonly SentMessage[],
  ledger: Ledger,
): Promise<string[]> {
  const counted = await server.query<{ key: string }>(
    `select message_id || ' ' || type || ' ' || extract(epoch from at)::bigint as key
     from mail.event where type = any($1)`,
    [['delivered', 'opened', 'clicked', 'bounced', 'complained']],
  )
  for (const { key } of counted) ledger.deliver(key)
  const rows = await server.query<{ id: string; status: string; suppressed: boolean }>(
    `select m.id, m.status, exists (select from mail.suppression s where s.address = c.message->'to'->0->>'address') as suppressed
     from mail.message m join mail.message_content c using (id)`,
  )
  const found = new Map(rows.map((row) => [row.id, `${row.status} ${row.suppressed}`]))
  const wrong = messages.filter(({ id, n }) => {
    const type = lastTypeOf(n)
    return found.get(id) !== (type === 'opened' ? 'delivered false' : `${type} true`)
  })
  const kept = await server.query<{ what: string }>(
    `select 'unmatched' as what from mail.feedback_unmatched union all select state from mail.feedback where state = 'parked'`,
  )
  return [
    ...(wrong.length > 0 ? [`${wrong.length} messages have another state than their events mean`] : []),
    ...(kept.length > 0 ? [`${kept.length} events or deliveries were put aside`] : []),
  ]
}

function shuffled<T>(items: readonly T[]): T[] {
  return items
    .map((item) => ({ item, place: Math.random() }))
    .sort((a, b) => a.place - b.place)
    .map(({ item }) => item)
}
