import { type Context, Hono } from 'hono'
import { z } from 'zod'
import { ApiError } from '../errors.ts'
import * as queries from './alert-queries.ts'
import { type AuthEnv, requireScope } from './auth.ts'
import { parseBody, readJson } from './body.ts'
import { asProblem, namePattern } from './control.ts'
import type { AppDeps } from './deps.ts'
import { pageLimit } from './page-limit.ts'

const DEFAULT_LIMIT = 20
export const MAX_ALERTS = 100
const DAY_S = 86_400

const id = z.uuid('must be the `id` of one of the list')
const ruleName = z.string().regex(/^[a-z0-9_]{1,64}$/, 'must be the `name` of an alert rule')

export const alertListSchema = z.strictObject({
  limit: pageLimit(MAX_ALERTS).optional(),
  after: id.optional(),
  before: id.optional(),
  state: z.enum(['open', 'resolved']).optional(),
  rule: ruleName.optional(),
})

export const silenceSchema = z.strictObject({
  until: z.iso.datetime({ offset: true, error: 'must be a time such as 2030-01-31T12:00:00Z' }),
  subject: z.string().max(500).nullable().optional(),
})

const seconds = z.int().min(0).max(DAY_S)
export const ruleSchema = z.strictObject({
  threshold: z.number().min(0).optional(),
  clear_at: z.number().min(0).nullable().optional(),
  min_volume: z.number().min(0).nullable().optional(),
  for_s: seconds.optional(),
  clear_for_s: seconds.optional(),
  severity: z.enum(['warning', 'critical']).optional(),
  stream: namePattern.nullable().optional(),
  provider: namePattern.nullable().optional(),
  urgent: z.boolean().nullable().optional(),
  enabled: z.boolean().optional(),
  repeat_s: z
    .int()
    .min(60)
    .max(30 * DAY_S)
    .nullable()
    .optional(),
})

/** `/alerts`: what fired. */
export function alertRoutes({ db }: Pick<AppDeps, 'db'>): Hono<AuthEnv> {
  const routes = new Hono<AuthEnv>()

  routes.get('/', requireScope('operate'), async (c) => {
    const asked = parseBody(alertListSchema, c.req.query())
    const { limit = DEFAULT_LIMIT, after = null, before = null, state = null, rule = null } = asked
    if (after !== null && before !== null) {
      throw new ApiError(
        'validation_error',
        'Invalid `before`: it cannot be used together with `after`; use one of them.',
      )
    }
    const rows = await queries.listAlerts(db, { limit, after, before, state, rule })
    const shown = rows.slice(0, limit)
    return c.json({
      object: 'list',
      has_more: rows.length > limit,
      data: before === null ? shown : shown.toReversed(),
    })
  })

  routes.get('/:id', requireScope('operate'), async (c) =>
    c.json(foundOr(await queries.findAlert(db, idOf(c, 'alert')), 'alert')),
  )

  routes.post('/:id/acknowledge', requireScope('operate'), async (c) => {
    const by = c.get('caller').name
    return c.json(foundOr(await queries.acknowledgeAlert(db, idOf(c, 'alert'), by), 'alert'))
  })

  return routes
}

/** `/alert-rules`: when somebody is told. New rules are rows that SQL adds. */
export function alertRuleRoutes({ db }: Pick<AppDeps, 'db'>): Hono<AuthEnv> {
  const routes = new Hono<AuthEnv>()

  routes.get('/', requireScope('operate'), async (c) =>
    c.json({ object: 'list', has_more: false, data: await queries.listRules(db) }),
  )

  routes.patch('/:name', requireScope('operate'), async (c) => {
    const changes = parseBody(ruleSchema, await readJson(c))
    const changed = await asProblem(() => queries.changeRule(db, c.req.param('name'), changes))
    return c.json(foundOr(changed, 'alert rule'))
  })

  routes.post('/:name/silence', requireScope('operate'), async (c) => {
    const { until, subject = null } = parseBody(silenceSchema, await readJson(c))
    const rule = c.req.param('name')
    const message = await asProblem(() => queries.silence(db, { rule, subject, until: new Date(until) }))
    return c.json({ object: 'alert_silence', rule, subject, until: new Date(until).toISOString(), message })
  })

  return routes
}

export function foundOr<T>(found: T | undefined, what: string): T {
  if (found === undefined) throw notFound(what)
  return found
}

export function idOf(c: Context, what: string): string {
  const given = z.uuid().safeParse(c.req.param('id'))
  if (!given.success) throw notFound(what)
  return given.data
}

function notFound(what: string): ApiError {
  return new ApiError('not_found', `There is no such ${what}.`)
}
