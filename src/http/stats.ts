import { Hono } from 'hono'
import { z } from 'zod'
import { ApiError } from '../errors.ts'
import { type AuthEnv, requireScope } from './auth.ts'
import { parseBody } from './body.ts'
import { csvOf } from './csv.ts'
import type { AppDeps } from './deps.ts'
import { readStats, STAT_KEYS, type StatQuestion } from './stats-queries.ts'

const MAX_ROWS = 10_000
const DEFAULT_DAYS = 30
const DAY_MS = 86_400_000

const day = z.iso.date('must be a day such as 2026-11-21')
const word = z.string().min(1).max(255)

export const questionSchema = z.strictObject({
  from: day.optional(),
  to: day.optional(),
  group_by: z
    .string()
    .transform((text) => text.split(','))
    .pipe(z.array(z.enum(STAT_KEYS, `must be a list of ${STAT_KEYS.join(', ')}`)).max(STAT_KEYS.length))
    .refine((keys) => new Set(keys).size === keys.length, 'must name each only once')
    .optional(),
  stream: word.optional(),
  provider: word.optional(),
  template: word.optional(),
  template_version: z
    .string()
    .regex(/^\d{1,9}$/, 'must be a whole number')
    .optional(),
  domain: word.optional(),
  tag: word.optional(),
  format: z.enum(['json', 'csv'], 'must be json or csv').optional(),
})

/** `GET /stats`: what was sent and what became of it, per day, stream, provider, template, domain or tag. */
export function statsRoutes(deps: AppDeps): Hono<AuthEnv> {
  const routes = new Hono<AuthEnv>()
  routes.get('/', requireScope('read', 'operate'), async (c) => {
    const { format, ...asked } = parseBody(questionSchema, c.req.query())
    const question = questionOf(asked, Date.now())
    const rows = await readStats(deps.db, { ...question, limit: MAX_ROWS + 1 })
    if (rows.length > MAX_ROWS) {
      throw new ApiError(
        'validation_error',
        `The answer has more than ${MAX_ROWS} rows; use fewer days, fewer keys in \`group_by\`, or a filter.`,
      )
    }
    const wantsCsv = format === 'csv' || (format === undefined && c.req.header('Accept') === 'text/csv')
    if (!wantsCsv) return c.json({ object: 'list', from: question.from, to: question.to, data: rows })
    c.header('Content-Type', 'text/csv; charset=utf-8')
    return c.body(csvOf(rows, [...question.groupBy, ...COUNTS], { header: true }))
  })
  return routes
}

type Asked = Omit<z.output<typeof questionSchema>, 'format'>

function questionOf(
  { from, to, group_by: groupBy = ['day'], ...only }: Asked,
  now: number,
): Omit<StatQuestion, 'limit'> {
  const last = to ?? dayOf(now)
  const first = from ?? dayOf(Date.parse(last) - (DEFAULT_DAYS - 1) * DAY_MS)
  if (first > last) {
    throw new ApiError('validation_error', `Invalid \`from\`: ${first} is after ${last}; use an earlier day.`)
  }
  const isByTag = groupBy.includes('tag') || only.tag !== undefined
  const apart = (['provider', 'template', 'template_version', 'domain'] as const).find(
    (key) => groupBy.includes(key) || only[key] !== undefined,
  )
  if (isByTag && apart !== undefined) {
    throw new ApiError(
      'validation_error',
      `Invalid \`tag\`: tags are counted per day and stream, not together with \`${apart}\`; ask for one of them.`,
    )
  }
  const filters = Object.entries(only).filter(([, value]) => value !== undefined)
  return { from: first, to: last, groupBy, only: Object.fromEntries(filters) }
}

function dayOf(ms: number): string {
  return new Date(ms).toISOString().slice(0, 10)
}

const COUNTS = [
  'sent',
  'delivered',
  'deferred',
  'bounced',
  'complained',
  'opened',
  'clicked',
  'unsubscribed',
  'suppressed',
  'dead',
  'p50_s',
  'p95_s',
  'p99_s',
]
