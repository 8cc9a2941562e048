import { z } from 'zod'
import { SUPPRESSION_ORIGINS } from '../suppression-queries.ts'
import { addManySchema, addSchema, listSchema as listQuerySchema, removeManySchema } from '../suppressions.ts'
import { answerSchema, described, listSchema, moment, type Operation, requestSchema } from './operation.ts'
import { PAGE_TEXTS } from './page-parameters.ts'

const SCOPE_TEXT = 'A stream, or `*` for all, which is the default.'
const EXTRA_TEXTS = {
  scope: SCOPE_TEXT,
  reason: 'In your words, at most 500 characters.',
  expires_at: 'When it ends by itself; never when absent or null.',
}
const add = requestSchema('AddSuppression', addSchema, {
  email: 'A bare address.',
  ...EXTRA_TEXTS,
})
const addMany = requestSchema('AddSuppressions', addManySchema, {
  emails: 'Up to 100 bare addresses.',
  ...EXTRA_TEXTS,
})
const removeMany = requestSchema('RemoveSuppressions', removeManySchema, {
  emails: 'Up to 100 addresses; or `ids`.',
  ids: 'Up to 100 ids; or `emails`.',
  scope: 'Of the addresses. A stream, or `*`, which is the default.',
})

const listedSchema = answerSchema(
  'ListedSuppression',
  z.strictObject({
    id: z.uuid(),
    email: z.string(),
    origin: z.enum(SUPPRESSION_ORIGINS),
    source_id: z.string().nullable(),
    created_at: moment,
    scope: z.string(),
    reason: z.string(),
    source: z.string(),
    evidence: z.record(z.string(), z.unknown()).nullable(),
    expires_at: moment.nullable(),
  }),
  {
    source_id: 'The email that led to it.',
    scope: SCOPE_TEXT,
    source: 'Who put it there.',
    evidence: 'What the provider told.',
  },
)
export type SuppressionAnswer = z.output<typeof listedSchema>

const suppressionSchema = answerSchema(
  'Suppression',
  z.strictObject({ object: z.literal('suppression'), ...listedSchema.shape }),
)
const addedSchema = answerSchema(
  'AddedSuppression',
  z.strictObject({ object: z.literal('suppression'), id: z.uuid() }),
)
const addedManySchema = answerSchema('AddedSuppressions', z.strictObject({ data: z.array(addedSchema) }), {
  data: 'In the order given.',
})
const removedSchema = answerSchema(
  'RemovedSuppression',
  z.strictObject({ object: z.literal('suppression'), id: z.string(), deleted: z.boolean() }),
  { id: 'Of one that was not on the list, what was given.' },
)
const removedManySchema = answerSchema(
  'RemovedSuppressions',
  z.strictObject({ data: z.array(removedSchema) }),
)
const importSchema = answerSchema(
  'SuppressionImport',
  z.strictObject({
    object: z.literal('suppression_import'),
    imported: z.int(),
    refused: z.int(),
    errors: z.array(z.strictObject({ line: z.int(), message: z.string() })),
  }),
  { errors: 'The first 100 of those refused.' },
)
const suppressionListSchema = listSchema('SuppressionList', listedSchema)

const ID = '019ac5a8-3c40-7d15-8f2a-b6e0d9c47a31'
const LISTED: SuppressionAnswer = {
  id: ID,
  email: 'gone@example.com',
  origin: 'bounce',
  source_id: '019ac5a8-1f2e-7c31-9d54-6f1f4a0c2b7e',
  created_at: '2026-11-21T09:30:02.000Z',
  scope: '*',
  reason: '550 5.1.1 no such user',
  source: 'provider default',
  evidence: { message_id: '019ac5a8-1f2e-7c31-9d54-6f1f4a0c2b7e' },
  expires_at: null,
}
const CSV = 'address,scope,reason,expires_at\ngone@example.com,*,asked by phone,\n'

const idOrEmail = described(z.object({ idOrEmail: z.string() }), { idOrEmail: 'An id, or an address.' })
const inScope = described(z.object({ scope: z.string().optional() }), {
  scope: `Of an address. ${SCOPE_TEXT}`,
})

export const suppressionOperations: readonly Operation[] = [
  {
    method: 'POST',
    path: '/suppressions',
    id: 'addSuppression',
    tag: 'Suppressions',
    summary: 'Suppress an address',
    body: { schema: add, example: { email: 'gone@example.com', reason: 'asked by phone' } },
    answer: {
      description: 'On the list; the same when it was there already.',
      schema: addedSchema,
      example: { object: 'suppression', id: ID },
    },
  },
  {
    method: 'GET',
    path: '/suppressions',
    id: 'listSuppressions',
    tag: 'Suppressions',
    summary: 'List suppressions',
    description: 'What is in force, newest first.',
    query: described(listQuerySchema, { ...PAGE_TEXTS, origin: 'What led to them.', scope: SCOPE_TEXT }),
    answer: {
      description: 'A page of the list.',
      schema: suppressionListSchema,
      example: { object: 'list', has_more: false, data: [LISTED] },
    },
  },
  {
    method: 'GET',
    path: '/suppressions/export',
    id: 'exportSuppressions',
    tag: 'Suppressions',
    summary: 'The whole list as CSV',
    answer: {
      description: 'One line each, the oldest first.',
      otherForms: {
        'text/csv': { example: 'address,scope,origin,reason,source,created_at,expires_at\n' },
      },
    },
  },
  {
    method: 'POST',
    path: '/suppressions/import',
    id: 'importSuppressions',
    tag: 'Suppressions',
    summary: 'Add a list as CSV',
    description:
      'With a header line, of which `address` (or `email`), `scope`, `reason` and `expires_at` are read; or addresses alone. Read as it streams: up to a million lines.',
    body: { schema: z.string(), type: 'text/csv', example: CSV },
    answer: {
      description: 'The good lines are on the list.',
      schema: importSchema,
      example: {
        object: 'suppression_import',
        imported: 1,
        refused: 1,
        errors: [{ line: 3, message: 'address: it has no `@`; use an address like `name@example.com`' }],
      },
    },
    problems: [400, 413, 422],
  },
  {
    method: 'POST',
    path: '/suppressions/batch/add',
    id: 'addSuppressions',
    tag: 'Suppressions',
    summary: 'Suppress up to 100 addresses',
    body: { schema: addMany, example: { emails: ['gone@example.com'] } },
    answer: {
      description: 'On the list.',
      schema: addedManySchema,
      example: { data: [{ object: 'suppression', id: ID }] },
    },
  },
  {
    method: 'POST',
    path: '/suppressions/batch/remove',
    id: 'removeSuppressions',
    tag: 'Suppressions',
    summary: 'Take up to 100 addresses off the list',
    body: { schema: removeMany, example: { emails: ['gone@example.com'] } },
    answer: {
      description: 'Those that were there are gone.',
      schema: removedManySchema,
      example: { data: [{ object: 'suppression', id: ID, deleted: true }] },
    },
  },
  {
    method: 'GET',
    path: '/suppressions/:idOrEmail',
    id: 'getSuppression',
    tag: 'Suppressions',
    summary: 'Look up an address',
    params: idOrEmail,
    query: inScope,
    answer: {
      description: 'It is suppressed.',
      schema: suppressionSchema,
      example: { object: 'suppression', ...LISTED },
    },
  },
  {
    method: 'DELETE',
    path: '/suppressions/:idOrEmail',
    id: 'removeSuppression',
    tag: 'Suppressions',
    summary: 'Take an address off the list',
    params: idOrEmail,
    query: inScope,
    answer: {
      description: 'Gone.',
      schema: removedSchema,
      example: { object: 'suppression', id: ID, deleted: true },
    },
  },
]
