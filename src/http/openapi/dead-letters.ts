import { z } from 'zod'
import { DEFAULT_LIMIT, MAX_LIMIT, pickSchema, retrySchema } from '../dead-letters.ts'
import { answerSchema, described, listSchema, moment, type Operation, requestSchema } from './operation.ts'

const PICK_TEXTS = {
  id: 'Of one dead letter; or `filter`.',
  filter:
    'What they have in common: `code`, `stage`, `stream`, `provider`, `template`, `template_version`, `source`, `recipient_domain` and others.',
  max: 'How many of those at most.',
}
const pick = requestSchema('PickDeadLetters', pickSchema, PICK_TEXTS)
const retry = requestSchema('RetryDeadLetters', retrySchema, {
  ...PICK_TEXTS,
  per_second: 'The pace at which they go back; 100 when absent.',
})

const letterSchema = answerSchema(
  'DeadLetter',
  z.strictObject({
    message_id: z.uuid(),
    died_at: moment,
    stage: z.string(),
    code: z.string(),
    reason: z.string(),
    attempts: z.int(),
    template_version: z.int().nullable(),
    stream: z.string(),
    provider: z.string().nullable(),
    template: z.string().nullable(),
    source: z.string(),
    recipient_domain: z.string().nullable(),
    accepted_at: moment,
  }),
)
const groupSchema = answerSchema(
  'DeadLetterGroup',
  z.strictObject({
    stage: z.string(),
    code: z.string(),
    template: z.string().nullable(),
    template_version: z.int().nullable(),
    source: z.string().nullable(),
    recipient_domain: z.string().nullable(),
    messages: z.int(),
    first_seen: moment,
    last_seen: moment,
    sample_id: z.uuid(),
    sample_reason: z.string(),
    recipient_domains: z.string().nullable(),
  }),
  { source: 'Null where the group differs in it, as in the others.' },
)
const letterListSchema = listSchema('DeadLetterList', letterSchema)
const groupListSchema = listSchema('DeadLetterGroupList', groupSchema)
const retriedSchema = answerSchema('RetriedDeadLetters', z.strictObject({ retried: z.int() }))
const discardedSchema = answerSchema('DiscardedDeadLetters', z.strictObject({ discarded: z.int() }))

const word = z.string().optional()
/** The filters of `mail.check_dlq_filter` that are asked for most; it takes the others as well. */
const listQuery = z.object({
  limit: z.int().min(1).max(MAX_LIMIT).default(DEFAULT_LIMIT),
  code: word,
  stage: word,
  stream: word,
  provider: word,
  template: word,
  template_version: z.int().optional(),
  source: word,
  recipient_domain: word,
})

const LETTER = {
  ...{ message_id: '019ac5a8-1f2e-7c31-9d54-6f1f4a0c2b7e', died_at: '2026-11-21T09:30:00.431Z' },
  ...{ stage: 'processing', code: 'template_missing_variable', attempts: 0, stream: 'transactional' },
  reason: 'the template `welcome` is strict, and `name` is missing',
  ...{ template: 'welcome', template_version: 2, provider: null, source: 'api key shop' },
  ...{ recipient_domain: 'example.com', accepted_at: '2026-11-21T09:30:00.125Z' },
}
const ONLY = 'Only those with this.'

export const deadLetterOperations: readonly Operation[] = [
  {
    method: 'GET',
    path: '/dead-letters',
    id: 'listDeadLetters',
    tag: 'Dead letters',
    summary: 'List dead letters',
    description: 'The latest first.',
    query: described(listQuery, {
      limit: 'How many at most.',
      ...{ code: ONLY, stage: ONLY, stream: ONLY, provider: ONLY, template: ONLY, template_version: ONLY },
      ...{ source: ONLY, recipient_domain: ONLY },
    }),
    answer: {
      description: 'Those that fit.',
      schema: letterListSchema,
      example: { object: 'list', has_more: false, data: [LETTER] },
    },
  },
  {
    method: 'GET',
    path: '/dead-letters/summary',
    id: 'summariseDeadLetters',
    tag: 'Dead letters',
    summary: 'Group dead letters by their cause',
    answer: {
      description: 'The largest group first, at most 500.',
      schema: groupListSchema,
      example: {
        object: 'list',
        has_more: false,
        data: [
          {
            ...{ stage: LETTER.stage, code: LETTER.code, template: 'welcome', template_version: 2 },
            ...{ source: 'api key shop', recipient_domain: null, messages: 500 },
            ...{ first_seen: '2026-11-21T09:00:00.000Z', last_seen: LETTER.died_at },
            ...{ sample_id: LETTER.message_id, sample_reason: LETTER.reason },
            recipient_domains: 'example.com, example.net',
          },
        ],
      },
    },
  },
  {
    method: 'POST',
    path: '/dead-letters/retry',
    id: 'retryDeadLetters',
    tag: 'Dead letters',
    summary: 'Retry dead letters',
    description: 'One by its id, or those that match a filter, at a pace.',
    body: { schema: retry, example: { filter: { template: 'welcome' }, max: 500, per_second: 100 } },
    answer: { description: 'They are on their way again.', schema: retriedSchema, example: { retried: 500 } },
    problems: [404],
  },
  {
    method: 'POST',
    path: '/dead-letters/discard',
    id: 'discardDeadLetters',
    tag: 'Dead letters',
    summary: 'Give dead letters up',
    body: { schema: pick, example: { filter: { code: 'template_missing_variable' }, max: 500 } },
    answer: { description: 'They are canceled.', schema: discardedSchema, example: { discarded: 500 } },
    problems: [404],
  },
]
