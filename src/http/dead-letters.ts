import { Hono } from 'hono'
import { z } from 'zod'
import { ApiError } from '../errors.ts'
import { type AuthEnv, requireScope } from './auth.ts'
import { parseBody, readJson } from './body.ts'
import { asProblem } from './control.ts'
import * as queries from './control-queries.ts'
import type { AppDeps } from './deps.ts'
import { pageLimit } from './page-limit.ts'

export const DEFAULT_LIMIT = 50
export const MAX_LIMIT = 500
const DEFAULT_PER_SECOND = 100

const limitSchema = z.object({
  limit: pageLimit(MAX_LIMIT).optional(),
})

/** Which keys a filter may have, and what they may hold, is said by `mail.check_dlq_filter`. */
const filterSchema = z.record(z.string(), z.union([z.string(), z.number(), z.null()]))

export const pickSchema = z.strictObject({
  id: z.uuid().optional(),
  filter: filterSchema.optional(),
  max: z.int().min(1).max(1_000_000).optional(),
})
export const retrySchema = pickSchema.extend({ per_second: z.number().positive().optional() })

/** `/dead-letters`: listed, in groups, retried and discarded, as from psql. */
export function deadLetterRoutes(deps: AppDeps): Hono<AuthEnv> {
  const routes = new Hono<AuthEnv>()
  routes.get('/', requireScope('operate'), async (c) => {
    const { limit: asked, ...filter } = c.req.query()
    const { limit = DEFAULT_LIMIT } = parseBody(limitSchema, { limit: asked })
    const letters = await asProblem(() => queries.listDeadLetters(deps.db, filter, limit + 1))
    return c.json({ object: 'list', has_more: letters.length > limit, data: letters.slice(0, limit) })
  })
  routes.get('/summary', requireScope('operate'), async (c) => {
    const groups = await queries.summariseDeadLetters(deps.db, MAX_LIMIT + 1)
    return c.json({ object: 'list', has_more: groups.length > MAX_LIMIT, data: groups.slice(0, MAX_LIMIT) })
  })
  routes.post('/retry', requireScope('operate'), async (c) => {
    const { per_second: perSecond = DEFAULT_PER_SECOND, ...which } = parseBody(retrySchema, await readJson(c))
    const retried = await picked(which, {
      one: async (id) => ((await queries.retryOne(deps.db, id)) ? 1 : 0),
      many: (filter, max) => queries.retryMany(deps.db, filter, max, perSecond),
    })
    return c.json({ retried })
  })
  routes.post('/discard', requireScope('operate'), async (c) => {
    const discarded = await picked(parseBody(pickSchema, await readJson(c)), {
      one: async (id) => ((await queries.discardOne(deps.db, id)) ? 1 : 0),
      many: (filter, max) => queries.discardMany(deps.db, filter, max),
    })
    return c.json({ discarded })
  })
  return routes
}

/** How many were meant and found: one by its id, or those that match a filter. */
async function picked(
  { id, filter, max }: z.infer<typeof pickSchema>,
  act: {
    one: (id: string) => Promise<number>
    many: (filter: object, max: number | null) => Promise<number>
  },
): Promise<number> {
  if (id !== undefined && (filter !== undefined || max !== undefined)) {
    throw new ApiError(
      'validation_error',
      'Invalid `id`: it cannot be used together with `filter` and `max`; give `id` alone, or `filter` with `max`.',
    )
  }
  if (id !== undefined) return asProblem(() => act.one(id))
  if (filter === undefined) {
    throw new ApiError(
      'missing_required_field',
      'Missing `id` or `filter` field: say which dead letters are meant.',
    )
  }
  return asProblem(() => act.many(filter, max ?? null))
}
