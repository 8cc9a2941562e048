import { type Context, Hono } from 'hono'
import { z } from 'zod'
import { ApiError } from '../errors.ts'
import { isKeyId } from '../keys/key-format.ts'
import { keyLimits, keyName, limitsFault } from '../keys/key-settings.ts'
import * as store from '../keys/keys.ts'
import { type AuthEnv, requireScope } from './auth.ts'
import { parseBody, readJson } from './body.ts'
import type { AppDeps } from './deps.ts'
import type { ApiKeyAnswer } from './openapi/api-keys.ts'
import { pageLimit } from './page-limit.ts'

/** Resend's names for two of the scopes. */
const SCOPE_OF_PERMISSION = { full_access: 'full', sending_access: 'send' } as const

export const newKeySchema = z.strictObject({
  name: keyName,
  permission: z.enum(['full_access', 'sending_access']).optional(),
  scope: z.enum(store.KEY_SCOPES).optional(),
  domain_id: z.unknown().optional(),
  ...keyLimits,
})

export const changesSchema = z.strictObject({ name: keyName.exactOptional(), ...keyLimits })

const MAX_OVERLAP_S = 30 * 86_400
export const rotationSchema = z.strictObject({ overlap_s: z.int().min(0).max(MAX_OVERLAP_S).default(86_400) })

const MAX_LIMIT = 100
export const pageSchema = z.strictObject({
  limit: pageLimit(MAX_LIMIT).default(MAX_LIMIT),
  after: z.string().optional(),
  before: z.string().optional(),
})

/** `/api-keys` in Resend's shape. A revoked key is as one that never was; the bootstrap key is no row. */
export function apiKeyRoutes(deps: AppDeps): Hono<AuthEnv> {
  const routes = new Hono<AuthEnv>()
  routes.post('/', requireScope(), (c) => createKey(deps, c))
  routes.get('/', requireScope(), (c) => listKeys(deps, c))
  routes.get('/:id', requireScope(), async (c) => {
    const key = await store.findKey(deps.db, idOf(c))
    if (key === undefined) throw notFound()
    return c.json(present(key))
  })
  routes.patch('/:id', requireScope(), (c) => changeKey(deps, c))
  routes.delete('/:id', requireScope(), async (c) => {
    const id = idOf(c)
    if (!(await store.revokeKey(deps.db, id))) throw notFound()
    tell(deps, c, id, 'API key revoked')
    return c.json({ object: 'api_key', id, deleted: true })
  })
  routes.post('/:id/rotate', requireScope(), (c) => rotateKey(deps, c))
  return routes
}

async function createKey(deps: AppDeps, c: Context<AuthEnv>): Promise<Response> {
  const { permission, domain_id, scope: asked, ...rest } = parseBody(newKeySchema, await readJson(c))
  if (domain_id !== undefined && domain_id !== null) {
    throw new ApiError(
      'validation_error',
      'Invalid `domain_id`: domains have no ids here; name them in `sender_domains`, such as ["example.com"].',
    )
  }
  if (permission !== undefined && asked !== undefined) {
    throw new ApiError('validation_error', 'Invalid `permission`: give either `permission` or `scope`.')
  }
  const scope = asked ?? SCOPE_OF_PERMISSION[permission ?? 'full_access']
  const caller = c.get('caller')
  await checkLimits(deps, { scope, ...rest })
  checkGives(caller, rest)
  const { id, key } = await store.createKey(deps.db, {
    ...rest,
    scope,
    created_by: `api key ${caller.name}`,
  })
  tell(deps, c, id, 'API key made')
  return c.json({ object: 'api_key', id, token: key, name: rest.name, scope }, 201)
}

async function listKeys(deps: AppDeps, c: Context<AuthEnv>): Promise<Response> {
  const { limit, after, before } = parseBody(pageSchema, c.req.query())
  if (after !== undefined && before !== undefined) {
    throw new ApiError('validation_error', 'Invalid `before`: give either `after` or `before`.')
  }
  const cursor = after ?? before
  if (cursor !== undefined && !(isKeyId(cursor) && (await store.isKey(deps.db, cursor)))) {
    const field = after === undefined ? 'before' : 'after'
    throw new ApiError('validation_error', `Invalid \`${field}\`: use the \`id\` of a key in this list.`)
  }
  const { keys, hasMore } = await store.listKeys(deps.db, {
    limit,
    ...(after !== undefined && { after }),
    ...(before !== undefined && { before }),
  })
  return c.json({ object: 'list', has_more: hasMore, data: keys.map(present) })
}

async function changeKey(deps: AppDeps, c: Context<AuthEnv>): Promise<Response> {
  const id = idOf(c)
  const changes = parseBody(changesSchema, await readJson(c))
  await checkStreams(deps, changes)
  const changed = await store.changeKey(deps.db, id, changes, (key) => {
    const wanted = { ...key, ...changes }
    refuseFault(limitsFault(wanted))
    const isLimitChanged = ['expires_at', 'rate_limit_per_s', 'rate_burst'].some((field) => field in changes)
    if (isLimitChanged) checkGives(c.get('caller'), wanted)
  })
  if (changed === undefined) throw notFound()
  tell(deps, c, id, 'API key changed')
  return c.json(present(changed))
}

async function rotateKey(deps: AppDeps, c: Context<AuthEnv>): Promise<Response> {
  const id = idOf(c)
  const { overlap_s } = parseBody(rotationSchema, await readJson(c))
  const rotated = await store.rotateKey(deps.db, { id, overlapS: overlap_s }, (key) =>
    checkGives(c.get('caller'), key),
  )
  if (rotated === undefined) throw notFound()
  tell(deps, c, id, 'API key rotated')
  return c.json({
    object: 'api_key',
    id,
    token: rotated.key,
    previous_expires_at: rotated.stored.previous_expires_at?.toISOString() ?? null,
  })
}

async function checkLimits(
  deps: AppDeps,
  key: { scope: store.KeyScope } & Partial<store.KeyLimits>,
): Promise<void> {
  refuseFault(limitsFault(key))
  await checkStreams(deps, key)
}

async function checkStreams(deps: AppDeps, { streams }: Partial<store.KeyLimits>): Promise<void> {
  if (streams === undefined || streams === null) return
  const [unknown] = await store.unknownStreams(deps.db, streams)
  if (unknown === undefined) return
  refuseFault(`Invalid \`streams\`: there is no stream \`${unknown}\`; make it first, or use another.`)
}

function refuseFault(fault: string | undefined): void {
  if (fault !== undefined) throw new ApiError('validation_error', fault)
}

/**
 * A key gives no more than it has: whoever holds one that expires, or is slow, cannot make or renew one that lives
 * longer or is faster.
 */
function checkGives(caller: store.Caller, given: Partial<store.KeyLimits>): void {
  const until = caller.expires_at
  if (until !== null && (given.expires_at ?? null) === null) {
    throw moreThanItHas('expires_at', `it expires itself, so give a time until ${until.toISOString()}`)
  }
  if (until !== null && given.expires_at && given.expires_at > until) {
    throw moreThanItHas('expires_at', `it expires itself, at ${until.toISOString()}`)
  }
  const rate = caller.rate_limit_per_s
  if (rate !== null && (given.rate_limit_per_s ?? Number.POSITIVE_INFINITY) > rate) {
    throw moreThanItHas('rate_limit_per_s', `it may make ${rate} requests a second itself`)
  }
  if (rate !== null && burstOf(given) > burstOf(caller)) {
    throw moreThanItHas('rate_burst', `it may make ${burstOf(caller)} requests at once itself`)
  }
}

/** As mail.take_request_tokens has it. */
function burstOf({ rate_limit_per_s, rate_burst }: Partial<store.KeyLimits>): number {
  return rate_burst ?? Math.max(1, Math.ceil(rate_limit_per_s ?? Number.POSITIVE_INFINITY))
}

function moreThanItHas(field: string, why: string): ApiError {
  return new ApiError('restricted_api_key', `This API key cannot give this \`${field}\`: ${why}.`)
}

/** What changed holds in this process from the next request on, and in the others within two seconds. */
function tell(deps: AppDeps, c: Context<AuthEnv>, id: string, what: string): void {
  deps.keyring.forget(id)
  deps.log.info({ keyId: id, by: c.get('caller').keyId }, what)
}

function idOf(c: Context): string {
  const id = c.req.param('id') ?? ''
  if (!isKeyId(id)) throw notFound()
  return id
}

function notFound(): ApiError {
  return new ApiError('not_found', 'API key not found.')
}

function present(key: store.StoredKey): ApiKeyAnswer {
  return {
    object: 'api_key',
    id: key.id,
    name: key.name,
    created_at: key.created_at.toISOString(),
    last_used_at: key.last_used_at?.toISOString() ?? null,
    scope: key.scope,
    streams: key.streams,
    sender_domains: key.sender_domains,
    expires_at: key.expires_at?.toISOString() ?? null,
    rate_limit_per_s: key.rate_limit_per_s,
    rate_burst: key.rate_burst,
    created_by: key.created_by,
    previous_expires_at: key.previous_expires_at?.toISOString() ?? null,
  }
}
