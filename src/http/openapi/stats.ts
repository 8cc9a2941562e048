import { z } from 'zod'
import { questionSchema } from '../stats.ts'
import { answerSchema, described, type Operation } from './operation.ts'

const count = z.int()
const seconds = z.number().nullable()
const word = z.string().nullable().optional()

const rowSchema = answerSchema(
  'StatRow',
  z.strictObject({
    day: z.iso.date().optional(),
    stream: word,
    provider: word,
    template: word,
    template_version: z.int().nullable().optional(),
    domain: word,
    tag: word,
    sent: count,
    delivered: count,
    deferred: count,
    bounced: count,
    complained: count,
    opened: count,
    clicked: count,
    unsubscribed: count,
    suppressed: count,
    dead: count,
    p50_s: seconds,
    p95_s: seconds,
    p99_s: seconds,
  }),
  { p50_s: 'Seconds from acceptance to sending, as a percentile; null when nothing was sent.' },
)
const statsSchema = answerSchema(
  'Stats',
  z.strictObject({
    object: z.literal('list'),
    from: z.iso.date(),
    to: z.iso.date(),
    data: z.array(rowSchema),
  }),
)

const ONLY = 'Count only what has this.'

export const statsOperations: readonly Operation[] = [
  {
    method: 'GET',
    path: '/stats',
    id: 'getStats',
    tag: 'Statistics',
    summary: 'Count what was sent and what became of it',
    description: 'By the UTC day of acceptance. As CSV with `format=csv`, or the header `Accept: text/csv`.',
    query: described(questionSchema, {
      from: 'The first day; 30 days up to `to` when absent.',
      to: 'The last day; today when absent.',
      group_by:
        'What to divide by, separated by commas: `day` (the default), `stream`, `provider`, `template`, `template_version`, `domain`, `tag`.',
      stream: ONLY,
      provider: ONLY,
      template: ONLY,
      template_version: ONLY,
      domain: ONLY,
      tag: ONLY,
      format: '`json` when absent.',
    }),
    answer: {
      description: 'One row for each group.',
      schema: statsSchema,
      example: {
        object: 'list',
        from: '2026-10-23',
        to: '2026-11-21',
        data: [
          {
            ...{ day: '2026-11-21', sent: 1200, delivered: 1150, deferred: 12, bounced: 9, complained: 1 },
            ...{ opened: 0, clicked: 0, unsubscribed: 0, suppressed: 3, dead: 0 },
            ...{ p50_s: 0.2, p95_s: 0.9, p99_s: 2.5 },
          },
        ],
      },
      otherForms: { 'text/csv': { example: 'day,sent,delivered\n2026-11-21,1200,1150\n' } },
    },
  },
]
