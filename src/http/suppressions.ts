import { type Context, Hono } from 'hono'
import { z } from 'zod'
import { ApiError } from '../errors.ts'
import { type AuthEnv, requireScope } from './auth.ts'
import { parseBody, readJson } from './body.ts'
import type { AppDeps } from './deps.ts'
import type { SuppressionAnswer } from './openapi/suppressions.ts'
import { pageLimit } from './page-limit.ts'
import { exportSuppressions } from './suppression-csv.ts'
import { EVERY_STREAM, expirySchema, readAddress, reasonSchema, scopeFault } from './suppression-entry.ts'
import * as queries from './suppression-queries.ts'

const DEFAULT_LIMIT = 20
const MAX_LIMIT = 100
const MAX_BATCH = 100
const UUID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i

const extras = {
  scope: z.string().optional(),
  reason: reasonSchema.optional(),
  expires_at: expirySchema.nullable().optional(),
}
export const addSchema = z.strictObject({ email: z.string(), ...extras })
const batch = z.array(z.string()).min(1, 'must not be empty').max(MAX_BATCH, `may have at most ${MAX_BATCH}`)
export const addManySchema = z.strictObject({ emails: batch, ...extras })
export const removeManySchema = z.strictObject({
  emails: batch.optional(),
  ids: batch.optional(),
  scope: z.string().optional(),
})
export const listSchema = z.strictObject({
  limit: pageLimit(MAX_LIMIT).optional(),
  after: z.string().regex(UUID, 'must be the id of a suppression').optional(),
  before: z.string().regex(UUID, 'must be the id of a suppression').optional(),
  origin: z.enum(queries.SUPPRESSION_ORIGINS).optional(),
  scope: z.string().optional(),
})

/** `/suppressions` in Resend's shape; `scope`, `reason` and `expires_at` are ours. */
export function suppressionRoutes(deps: AppDeps): Hono<AuthEnv> {
  const routes = new Hono<AuthEnv>()
  const mayRead = requireScope('read', 'operate')
  const mayChange = requireScope('operate')
  routes.post('/', mayChange, async (c) => {
    const { email, ...rest } = parseBody(addSchema, await readJson(c))
    const [added] = await store(deps, c, [addressIn('email', email)], rest)
    return c.json({ object: 'suppression', id: added?.id })
  })
  routes.get('/', mayRead, async (c) => c.json(await list(deps, c.req.query())))
  routes.get('/export', mayRead, (c) => exportSuppressions(deps.db, c))
  routes.post('/batch/add', mayChange, async (c) => {
    const { emails, ...rest } = parseBody(addManySchema, await readJson(c))
    const addresses = emails.map((email, index) => addressIn(`emails[${index}]`, email))
    const added = await store(deps, c, addresses, rest)
    return c.json({ data: added.map(({ id }) => ({ object: 'suppression', id })) })
  })
  routes.post('/batch/remove', mayChange, async (c) => {
    const { emails, ids, scope } = parseBody(removeManySchema, await readJson(c))
    return c.json({ data: await removeMany(deps, emails, ids, scopeIn(deps, scope)) })
  })
  routes.get('/:idOrEmail', mayRead, async (c) => {
    const wanted = wantedBy(deps, c)
    const [found] = await queries.findSuppressions(deps.db, wanted)
    if (found === undefined) throw await notFound(deps, wanted)
    return c.json({ object: 'suppression', ...present(found) })
  })
  routes.delete('/:idOrEmail', mayChange, async (c) => {
    const wanted = wantedBy(deps, c)
    const [removed] = await queries.removeSuppressions(deps.db, wanted)
    if (removed === undefined) throw await notFound(deps, wanted)
    return c.json({ object: 'suppression', id: removed.id, deleted: true })
  })
  return routes
}

async function list(deps: AppDeps, query: Record<string, string>): Promise<object> {
  const filter = parseBody(listSchema, query)
  if (filter.after !== undefined && filter.before !== undefined) {
    throw new ApiError(
      'validation_error',
      'Invalid `before`: it cannot be used together with `after`; use one of them.',
    )
  }
  const { limit = DEFAULT_LIMIT } = filter
  const rows = await queries.listSuppressions(deps.db, { ...filter, limit })
  const page = rows.slice(0, limit)
  if (filter.before !== undefined) page.reverse()
  return { object: 'list', has_more: rows.length > limit, data: page.map(present) }
}

/** The rows in the order of the addresses given, one for each. */
async function store(
  deps: AppDeps,
  c: Context<AuthEnv>,
  addresses: readonly string[],
  rest: { scope?: string | undefined; reason?: string | undefined; expires_at?: string | null | undefined },
): Promise<queries.Suppression[]> {
  const scope = scopeIn(deps, rest.scope)
  const entries = addresses.map((address) => ({
    address,
    scope,
    origin: 'manual' as const,
    reason: rest.reason ?? 'manual',
    source: sourceOf(c),
    expires_at: rest.expires_at ?? null,
  }))
  const rows = await queries.storeSuppressions(deps.db, entries)
  const byAddress = new Map(rows.map((row) => [row.address, row]))
  return addresses.flatMap((address) => byAddress.get(address) ?? [])
}

async function removeMany(
  deps: AppDeps,
  emails: readonly string[] | undefined,
  ids: readonly string[] | undefined,
  scope: string,
): Promise<object[]> {
  if (emails === undefined && ids === undefined) {
    throw new ApiError('missing_required_field', 'Missing `emails` or `ids` field: say which are meant.')
  }
  if (emails !== undefined && ids !== undefined) {
    throw new ApiError('validation_error', 'Invalid `ids`: `emails` is there already; use one of them.')
  }
  const addresses = emails?.map((email, index) => addressIn(`emails[${index}]`, email)) ?? []
  const wrong = ids?.find((id) => !UUID.test(id))
  if (wrong !== undefined)
    throw new ApiError(
      'validation_error',
      `Invalid \`ids\`: \`${wrong.slice(0, 80)}\` is not an id; use those that GET /suppressions shows.`,
    )
  const removed = await queries.removeSuppressions(deps.db, { ids: ids ?? [], addresses, scope })
  const gone = new Map(
    removed.flatMap(({ id, address }) => [
      [id, id],
      [address, id],
    ]),
  )
  // What was not on the list has no id to tell: what was given stands for it.
  return (ids?.map((id) => id.toLowerCase()) ?? addresses).map((given) => ({
    object: 'suppression',
    id: gone.get(given) ?? given,
    deleted: gone.has(given),
  }))
}

function wantedBy(deps: AppDeps, c: Context<AuthEnv>): Parameters<typeof queries.findSuppressions>[1] {
  const given = c.req.param('idOrEmail') ?? ''
  const scope = scopeIn(deps, c.req.query('scope'))
  if (UUID.test(given)) return { ids: [given], scope }
  const read = readAddress(given)
  if (!read.ok) throw new ApiError('not_found', 'Suppression not found.')
  return { addresses: [read.address], scope }
}

/** Says so when the address is suppressed in other scopes than the one that was looked in. */
async function notFound(
  deps: AppDeps,
  { addresses = [], scope }: Parameters<typeof queries.findSuppressions>[1],
): Promise<ApiError> {
  const [address] = addresses
  const scopes = address === undefined ? [] : await queries.scopesOf(deps.db, address)
  const others = scopes.filter((each) => each !== scope)
  const hint =
    others.length === 0
      ? ''
      : ` The address is suppressed in ${others.join(', ')}: name one with \`?scope=\`.`
  return new ApiError('not_found', `Suppression not found.${hint}`)
}

function addressIn(field: string, text: string): string {
  const read = readAddress(text)
  if (!read.ok) throw new ApiError('validation_error', `Invalid \`${field}\`: ${read.reason}.`)
  return read.address
}

function scopeIn(deps: AppDeps, scope: string = EVERY_STREAM): string {
  const fault = scopeFault(deps.catalog.current, scope)
  if (fault !== undefined) throw new ApiError('validation_error', `Invalid \`scope\`: ${fault}.`)
  return scope
}

function sourceOf(c: Context<AuthEnv>): string {
  return `api key ${c.get('caller').name}`.slice(0, 200).toWellFormed()
}

function present(row: queries.Suppression): SuppressionAnswer {
  return {
    id: row.id,
    email: row.address,
    origin: row.origin,
    /** The message that led to it. */
    source_id: textOf(row.evidence?.message_id),
    created_at: row.created_at.toISOString(),
    scope: row.scope,
    reason: row.reason,
    source: row.source,
    evidence: row.evidence,
    expires_at: row.expires_at?.toISOString() ?? null,
  }
}

function textOf(value: unknown): string | null {
  return typeof value === 'string' ? value : null
}
