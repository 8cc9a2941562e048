import { type Context, Hono } from 'hono'
import { z } from 'zod'
import { sqlState } from '../db/sqlstate.ts'
import { ApiError } from '../errors.ts'
import { type AuthEnv, requireScope } from './auth.ts'
import { parseBody, readJson } from './body.ts'
import * as queries from './control-queries.ts'
import type { AppDeps } from './deps.ts'

/** Of a stream, a provider, a webhook source. */
export const namePattern = z.string().regex(/^[a-z0-9_-]{1,64}$/, 'must be 1 to 64 of a-z, 0-9, _ and -')
const positive = z.int().min(1)

const DAYS = ['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'] as const

const windowSchema = z
  .strictObject({
    days: z
      .array(z.enum(DAYS))
      .min(1)
      .max(7)
      .default([...DAYS]),
    opens: z.string().regex(/^([01]\d|2[0-3]):[0-5]\d$/, 'must be a time of the day, such as `20:00`'),
    closes: z
      .string()
      .regex(/^(([01]\d|2[0-3]):[0-5]\d|24:00)$/, 'must be a time of the day, such as `08:00`, or `24:00`'),
    time_zone: z.string().min(1).max(100).default('UTC'),
  })
  .refine(({ opens, closes }) => opens !== closes, {
    message: 'must open and close at different times: `00:00` to `24:00` is the whole day',
  })

export const streamSchema = z.strictObject({
  priority: z.int().min(0).max(9).optional(),
  route: z.array(namePattern).min(1).max(20).optional(),
  on_unknown: z.enum(['retry', 'hold']).optional(),
  attempts: positive.max(1_000).optional(),
  backoff_base_s: positive.max(86_400).optional(),
  backoff_factor: z.number().min(1).max(100).optional(),
  backoff_cap_s: positive.max(604_800).optional(),
  max_age_s: positive.max(2_592_000).optional(),
  slots: positive.max(1_000).optional(),
  send_within_s: positive.max(86_400).nullable().optional(),
  content_days: z.int().min(0).max(3_650).optional(),
  metadata_days: z.int().min(0).max(3_650).optional(),
  unsubscribe: z.boolean().optional(),
  unsubscribe_mailto: z.string().nullable().optional(),
  requires_unsubscribe: z.boolean().optional(),
  postal_address: z.string().max(500).nullable().optional(),
  requires_postal_address: z.boolean().optional(),
  windows: z.array(windowSchema).max(50).optional(),
  is_sensitive: z.boolean().optional(),
  bounce_domain: z
    .string()
    .max(180)
    .regex(
      /^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?$/,
      'must be a domain in lower case, such as `bounces.example.com`',
    )
    .nullable()
    .optional(),
})

const bucketSchema = z.strictObject({
  name: namePattern,
  quota: z.number().positive(),
  window_s: z.number().positive().optional(),
  utilization: z.number().positive().max(1).optional(),
  burst: z.number().positive().optional(),
  reserve: z.number().min(0).optional(),
  counts: z.enum(['messages', 'requests']).optional(),
})

export const providerSchema = z.strictObject({
  transport: z.enum(['smtp', 'inbox', 'ses', 'sendgrid', 'mailgun', 'postmark', 'resend']).optional(),
  credentials_env: z
    .string()
    .regex(/^[A-Z_][A-Z0-9_]*$/, 'must be the name of an environment variable')
    .optional(),
  base_url: z
    .url({ protocol: /^https?$/ })
    .nullable()
    .optional(),
  options: z.record(z.string(), z.string()).optional(),
  reserve: z.int().min(0).optional(),
  breaker_share: z.number().positive().max(1).optional(),
  breaker_volume: positive.optional(),
  breaker_run: positive.optional(),
  breaker_cooldown_s: positive.optional(),
  breaker_cooldown_cap_s: positive.optional(),
  buckets: z
    .array(bucketSchema)
    .max(20)
    .refine((buckets) => new Set(buckets.map((bucket) => bucket.name)).size === buckets.length, {
      message: 'must have different names',
    })
    .optional(),
})

/** `/streams` and `/providers`: their rows, changed live; workers pick changes up within a second. */
export function streamRoutes(deps: AppDeps): Hono<AuthEnv> {
  const routes = new Hono<AuthEnv>()
  routes.get('/', requireScope('operate'), async (c) =>
    c.json({ object: 'list', has_more: false, data: await queries.listStreams(deps.db) }),
  )
  routes.put('/:name', requireScope(), async (c) => {
    const stream = nameOf(c)
    const { windows, ...changes } = parseBody(streamSchema, await readJson(c))
    return c.json(await asProblem(() => queries.saveStream(deps.db, stream, changes, windows)))
  })
  addPauseRoutes(routes, deps, 'stream')
  return routes
}

export function providerRoutes(deps: AppDeps): Hono<AuthEnv> {
  const routes = new Hono<AuthEnv>()
  routes.get('/', requireScope('operate'), async (c) =>
    c.json({ object: 'list', has_more: false, data: await queries.listProviders(deps.db) }),
  )
  routes.put('/:name', requireScope(), async (c) => {
    const provider = nameOf(c)
    const { buckets, ...changes } = parseBody(providerSchema, await readJson(c))
    return c.json(await asProblem(() => queries.saveProvider(deps.db, provider, changes, buckets)))
  })
  addPauseRoutes(routes, deps, 'provider')
  return routes
}

function addPauseRoutes(routes: Hono<AuthEnv>, deps: AppDeps, kind: 'provider' | 'stream'): void {
  for (const [verb, paused] of [
    ['pause', true],
    ['resume', false],
  ] as const) {
    routes.post(`/:name/${verb}`, requireScope('operate'), async (c) => {
      const row = nameOf(c)
      const said = await asProblem(() => queries.setPaused(deps.db, kind, row, paused))
      return c.json({ object: kind, name: row, paused, message: said })
    })
  }
}

function nameOf(c: Context): string {
  return parseBody(z.object({ name: namePattern }), { name: c.req.param('name') }).name
}

/** SQLSTATEs of what the caller gave, beside those of the rules that a table keeps. */
const CALLERS_FAULTS = new Set([
  '22003', // a number out of range
  '22007', // not a time
  '22008', // a time out of range
  '22021', // NUL in text
  '22023', // what a function refuses
  '22P02', // not a value of its type
  '22P05', // NUL in JSON
  '42P09', // a name that means two things
  '55000', // the stream of a dead letter is gone
  'P0002', // a filter that matches nothing
])

/**
 * Rules that only the database knows (a route to a provider that does not exist, a cap below its base)
 * are answered with its own words, which are written for people.
 */
export async function asProblem<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    const state = sqlState(error) ?? ''
    const { column = '', constraint = '' } = error as { column?: string; constraint?: string }
    if (state === '42704') throw new ApiError('not_found', sentence(error))
    if (state === '23502') throw new ApiError('missing_required_field', `Missing \`${column}\` field.`)
    // Checks are named for what they demand.
    if (state === '23514') {
      throw new ApiError('validation_error', `Refused: ${constraint.replaceAll('_', ' ')}.`)
    }
    if (state === '23503' || CALLERS_FAULTS.has(state)) {
      throw new ApiError('validation_error', sentence(error))
    }
    throw error
  }
}

function sentence(error: unknown): string {
  const { message, hint } = error as { message: string; hint?: string }
  const text = `${message.charAt(0).toUpperCase()}${message.slice(1)}.`
  return hint === undefined ? text : `${text} ${hint}`
}
