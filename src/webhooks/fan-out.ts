import { reached } from '../crash-point.ts'
import type { Database } from '../db/pool.ts'
import { inTransaction, type Transaction } from '../db/transaction.ts'
import type { Log } from '../log.ts'
import { Loop } from '../loop.ts'
import type { Bells } from '../queue/bells.ts'
import { type Boss, ensureWebhookQueues, within } from '../queue/boss.ts'
import { webhookQueue } from '../queue/queues.ts'
import { jobIdOf } from './job.ts'
import { deliveryIdOf, eventTypesOf, payloadOf, webhookTypeOf } from './payload.ts'
import * as queries from './queries.ts'

/**
 * Decides who is told of what, by reading the event feed.
 *
 * Takes in: the events after the cursor `webhooks`. Leaves behind, in one transaction: a delivery and a job for each
 * endpoint that wants to hear of an event, the cursor moved, and one NOTIFY for whoever reads the feed by SQL.
 *
 * The row of the cursor is the lock: one process reads, the others pass. If that one dies, its transaction is gone and
 * the next one reads the same events; an event that was committed is behind the cursor, so it is told to each endpoint
 * exactly once. (Telling it is another matter, and happens at least once: deliverer.ts.)
 */
const EVENTS_PER_ROUND = 1_000
const EACH_MS = 500

export type FanOutDeps = {
  readonly db: Database
  readonly boss: Boss
  readonly bells: Bells
  readonly log: Log
}

export function createFanOutLoop(deps: FanOutDeps): Loop {
  return new Loop({
    name: 'webhooks',
    log: deps.log,
    idleMs: EACH_MS,
    round: () => fanOut(deps),
  })
}

/** One round; true when there may be more. */
export async function fanOut(deps: FanOutDeps, most: number = EVENTS_PER_ROUND): Promise<boolean> {
  await ensureWebhookQueues(deps.db)
  const { isMore, told } = await inTransaction(deps.db, async (trx) => {
    const cursor = await queries.takeCursor(trx)
    if (cursor === undefined) return { isMore: false, told: [] }
    const endpoints = await queries.listEndpoints(trx)
    const news = await tellNews(deps, trx, endpoints, cursor, most)
    const missed = await makeUpForMissed(deps, trx, endpoints, most)
    const told = [...news.told, ...missed.told]
    if (told.length > 0) reached('fan-out.before-commit')
    return { isMore: news.isMore || missed.isMore, told }
  })
  if (told.length > 0) reached('fan-out.committed')
  for (const endpoint of new Set(told)) deps.bells.ring(webhookQueue(endpoint))
  return isMore
}

/** `told`: the endpoints that have something waiting now. */
type Round = { readonly isMore: boolean; readonly told: readonly string[] }

async function tellNews(
  deps: FanOutDeps,
  trx: Transaction,
  endpoints: readonly queries.Endpoint[],
  cursor: string,
  most: number,
): Promise<Round> {
  const [enabled, disabled] = [endpoints.filter(isEnabled), endpoints.filter((each) => !isEnabled(each))]
  const types = eventTypesOf(enabled.map(({ events }) => events))
  const page = await queries.readFeed(trx, cursor, types, most)
  if (page.cursor === undefined) return { isMore: false, told: [] }
  const told = await tell(deps, trx, enabled, page.events)
  const missing = disabled.filter(({ skipped_from: from }) => from === null).map(({ id }) => id)
  if (missing.length > 0) await queries.noteSkipped(trx, missing, cursor)
  await queries.moveCursor(trx, page.cursor)
  return { isMore: page.seen === most, told }
}

/** What endpoints missed while they were disabled, where mail.webhook_replay asked for it. */
async function makeUpForMissed(
  deps: FanOutDeps,
  trx: Transaction,
  endpoints: readonly queries.Endpoint[],
  most: number,
): Promise<Round> {
  let isMore = false
  const told: string[] = []
  for (const endpoint of endpoints.filter(isEnabled)) {
    const { id, events, backfill_from: from, backfill_since: since } = endpoint
    if (from === null || since === null) continue
    const page = await queries.readFeed(trx, from, eventTypesOf([events]), most)
    const missed = page.events.filter(({ at }) => at >= since)
    told.push(...(await tell(deps, trx, [endpoint], missed)))
    // It ends where the feed ends: from there on the endpoint is told with all others.
    const isWhole = page.seen < most
    await queries.moveBackfill(trx, id, isWhole ? null : (page.cursor ?? null))
    isMore ||= !isWhole
  }
  return { isMore, told }
}

async function tell(
  deps: FanOutDeps,
  trx: Transaction,
  endpoints: readonly queries.Endpoint[],
  events: readonly queries.FeedEvent[],
): Promise<string[]> {
  const news: queries.NewEvent[] = []
  const deliveries: queries.NewDelivery[] = []
  for (const event of events) {
    const type = webhookTypeOf(event)
    const listeners = endpoints.filter(({ events: wanted }) => type && (wanted?.includes(type) ?? true))
    if (type === undefined || listeners.length === 0) continue
    const { event_id, message_id } = event
    news.push({ event_id, message_id, type, payload: payloadOf(type, event) })
    for (const { id } of listeners) {
      deliveries.push({ id: deliveryIdOf(id, event), endpoint_id: id, event_id })
    }
  }
  if (deliveries.length === 0) return []
  const fresh = await queries.storeDeliveries(trx, news, deliveries)
  const byEndpoint = Map.groupBy(fresh, (delivery) => delivery.endpoint_id)
  for (const [endpoint, waiting] of byEndpoint) {
    const jobs = waiting.map(({ id }) => ({ id: jobIdOf(id) }))
    await deps.boss.insert(webhookQueue(endpoint), jobs, within(trx))
  }
  return [...byEndpoint.keys()]
}

function isEnabled({ status }: queries.Endpoint): boolean {
  return status === 'enabled'
}
