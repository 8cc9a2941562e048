import { type Context, Hono } from 'hono'
import { z } from 'zod'
import { ApiError } from '../errors.ts'
import { textFault } from '../message/message-text.ts'
import { WEBHOOK_EVENTS } from '../webhook-events.ts'
import { webhookTarget } from '../webhook-target.ts'
import { type AuthEnv, requireScope } from './auth.ts'
import { parseBody, readJson } from './body.ts'
import { asProblem } from './control.ts'
import type { AppDeps } from './deps.ts'
import { readPage } from './template-input.ts'
import * as queries from './webhook-endpoint-queries.ts'

const UUID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i
const DELIVERY = /^msg_[0-9a-f]{32}$/

const url = z.string().max(2_000)
const events = z
  .array(z.enum(WEBHOOK_EVENTS, `must be among ${WEBHOOK_EVENTS.join(', ')}`))
  .min(1)
  .transform((list) => [...new Set(list)])
  .nullable()
const description = z
  .string()
  .max(500)
  .refine((text) => textFault(text) === undefined, 'it holds characters that cannot be stored')
  .nullable()

export const newSchema = z.strictObject({
  endpoint: url,
  events: events.optional(),
  description: description.optional(),
})

export const changesSchema = z.strictObject({
  endpoint: url.optional(),
  events: events.optional(),
  description: description.optional(),
  status: z.enum(['enabled', 'disabled'], 'must be enabled or disabled').optional(),
})

export const replaySchema = z.strictObject({
  since: z.iso.datetime({ offset: true, error: 'must be a time such as 2026-11-21T09:00:00Z' }),
})

/**
 * `/webhooks` in Resend's shape: the endpoints of the app, and what each was told. The paths that providers call
 * (webhooks.ts) come first, and are every POST to `/webhooks/:kind/:endpoint`: none here looks like that.
 */
export function webhookEndpointRoutes(deps: AppDeps): Hono<AuthEnv> {
  const routes = new Hono<AuthEnv>()
  addEndpointRoutes(routes, deps)
  addDeliveryRoutes(routes, deps)
  return routes
}

function addEndpointRoutes(routes: Hono<AuthEnv>, deps: AppDeps): void {
  const { db, log } = deps

  routes.post('/', requireScope(), async (c) => {
    const given = parseBody(newSchema, await readJson(c))
    refuseUnreachable(deps, given.endpoint)
    const made = await asProblem(() =>
      queries.createEndpoint(db, {
        url: given.endpoint,
        events: given.events ?? null,
        description: given.description ?? null,
      }),
    )
    log.info({ endpoint: made?.id }, 'webhook endpoint made')
    return c.json({ object: 'webhook', ...made })
  })

  routes.get('/', requireScope('read', 'operate'), async (c) => {
    const page = readPage(c)
    refuseOtherCursor(page, UUID, 'webhook')
    return c.json(listOf(page, await queries.listEndpoints(db, page), presentEndpoint))
  })

  routes.get('/:id', requireScope('read', 'operate'), async (c) => {
    return c.json({ object: 'webhook', ...presentEndpoint(await endpointOf(deps, c)) })
  })

  routes.patch('/:id', requireScope('operate'), async (c) => {
    const { endpoint, ...changes } = parseBody(changesSchema, await readJson(c))
    // To switch one off and on is an operator's; where events go is not.
    const isMore = endpoint !== undefined || changes.events !== undefined || changes.description !== undefined
    if (isMore && c.get('caller').scope !== 'full') {
      throw new ApiError(
        'restricted_api_key',
        'This API key may change nothing but the `status` of a webhook.',
      )
    }
    if (endpoint !== undefined) refuseUnreachable(deps, endpoint)
    const id = idOf(c)
    if (!(await asProblem(() => queries.changeEndpoint(db, id, { ...changes, url: endpoint }))))
      throw notFound()
    return c.json({ object: 'webhook', id })
  })

  routes.delete('/:id', requireScope(), async (c) => {
    const id = idOf(c)
    if (!(await queries.removeEndpoint(db, id))) throw notFound()
    log.info({ endpoint: id }, 'webhook endpoint removed')
    return c.json({ object: 'webhook', id, deleted: true })
  })

  routes.post('/:id/signing-secret/rotate', requireScope(), async (c) => {
    const id = idOf(c)
    const secret = await queries.rotateSecret(db, id)
    if (secret === undefined) throw notFound()
    log.info({ endpoint: id }, 'webhook signing secret rotated')
    return c.json({ object: 'webhook', id, signing_secret: secret })
  })

  routes.post('/:id/events/replay', requireScope('operate'), async (c) => {
    const { since } = parseBody(replaySchema, await readJson(c))
    const id = idOf(c)
    const replayed = await asProblem(() => queries.replaySince(db, id, new Date(since)))
    return c.json({ object: 'webhook', id, replayed })
  })
}

function addDeliveryRoutes(routes: Hono<AuthEnv>, deps: AppDeps): void {
  const { db } = deps

  routes.get('/:id/events', requireScope('read', 'operate'), async (c) => {
    const page = readPage(c)
    refuseOtherCursor(page, DELIVERY, 'webhook event')
    const { id } = await endpointOf(deps, c)
    return c.json(listOf(page, await queries.listDeliveries(db, id, page), presentDelivery))
  })

  routes.get('/:id/events/:event', requireScope('read'), async (c) => {
    const { next_attempt_at: next, payload, ...delivery } = await deliveryOf(deps, c)
    return c.json({
      object: 'webhook_event',
      ...presentDelivery({ ...delivery, next_attempt_at: next }),
      next_attempt_at: next?.toISOString() ?? null,
      payload,
    })
  })

  routes.post('/:id/events/:event/replay', requireScope('operate'), async (c) => {
    const { id } = await deliveryOf(deps, c)
    await asProblem(() => queries.replayDelivery(db, id))
    return c.json({ object: 'webhook_event', id })
  })

  routes.get('/:id/events/:event/attempts', requireScope('read', 'operate'), async (c) => {
    const { id } = await deliveryOf(deps, c)
    const attempts = await queries.listAttempts(db, id)
    return c.json({ object: 'list', has_more: false, data: attempts.map((each) => presentAttempt(id, each)) })
  })
}

function refuseUnreachable(deps: AppDeps, endpoint: string): void {
  const target = webhookTarget(endpoint, deps.webhookHosts)
  if (!target.ok) throw new ApiError('validation_error', `Invalid \`endpoint\`: ${target.reason}.`)
}

function refuseOtherCursor(page: queries.Page, form: RegExp, what: string): void {
  const cursor = page.after ?? page.before
  if (cursor === null || form.test(cursor)) return
  const field = page.after === null ? 'before' : 'after'
  throw new ApiError('validation_error', `Invalid \`${field}\`: use the \`id\` of a ${what} in this list.`)
}

function idOf(c: Context): string {
  const id = c.req.param('id') ?? ''
  if (!UUID.test(id)) throw notFound()
  return id
}

async function endpointOf(deps: AppDeps, c: Context): Promise<queries.StoredEndpoint> {
  const endpoint = await queries.findEndpoint(deps.db, idOf(c))
  if (endpoint === undefined) throw notFound()
  return endpoint
}

async function deliveryOf(deps: AppDeps, c: Context) {
  const id = c.req.param('event') ?? ''
  const delivery = DELIVERY.test(id) ? await queries.findDelivery(deps.db, idOf(c), id) : undefined
  if (delivery === undefined) {
    throw new ApiError('not_found', 'Webhook event not found. Events are kept for 30 days.')
  }
  return delivery
}

function notFound(): ApiError {
  return new ApiError('not_found', 'Webhook not found.')
}

function listOf<T>({ limit, before }: queries.Page, rows: readonly T[], present: (row: T) => object): object {
  const shown = rows.slice(0, limit)
  return {
    object: 'list',
    has_more: rows.length > limit,
    data: (before === null ? shown : shown.toReversed()).map(present),
  }
}

/** Without the signing secret: that is shown when it is made and never again. */
function presentEndpoint(endpoint: queries.StoredEndpoint): object {
  return {
    id: endpoint.id,
    created_at: endpoint.created_at.toISOString(),
    status: endpoint.status,
    endpoint: endpoint.url,
    events: endpoint.events,
    description: endpoint.description,
    failures: endpoint.failures,
    failing_since: endpoint.failing_since?.toISOString() ?? null,
    last_failure: endpoint.last_failure,
    disabled_at: endpoint.disabled_at?.toISOString() ?? null,
    disabled_reason: endpoint.disabled_reason,
  }
}

function presentDelivery({ id, type, state, created_at: at }: queries.StoredDelivery): object {
  return { id, type, created_at: at.toISOString(), status: state }
}

function presentAttempt(delivery: string, attempt: queries.StoredAttempt): object {
  return {
    id: `${delivery}_${attempt.number}`,
    http_status_code: attempt.status,
    response: attempt.response ?? attempt.error,
    sent_at: attempt.at.toISOString(),
    duration_ms: attempt.duration_ms,
  }
}
