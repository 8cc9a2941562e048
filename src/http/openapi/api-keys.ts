import { z } from 'zod'
import { KEY_SCOPES } from '../../keys/keys.ts'
import { changesSchema, newKeySchema, pageSchema, rotationSchema } from '../api-keys.ts'
import { answerSchema, described, listSchema, moment, type Operation, requestSchema } from './operation.ts'
import { PAGE_TEXTS } from './page-parameters.ts'

const LIMIT_TEXTS = {
  streams: 'Of a `send` key: the streams it may send in; null for all.',
  sender_domains: 'Of a `send` key: the domains it may send from; null for all.',
  expires_at: 'When it ends; null for never.',
  rate_limit_per_s: 'Requests a second; null for no limit.',
  rate_burst: 'Requests at once under that limit; those of a second when null.',
}
const NAME_TEXT = 'For people: one line, at most 200 characters.'
const create = requestSchema('NewApiKey', newKeySchema, {
  name: NAME_TEXT,
  permission: "Resend's word for the scope: `full_access` (the default) or `sending_access`.",
  scope: 'What it may do; in place of `permission`.',
  domain_id: 'Refused: name the domains in `sender_domains`.',
  ...LIMIT_TEXTS,
})
const change = requestSchema('ApiKeyChanges', changesSchema, { name: NAME_TEXT, ...LIMIT_TEXTS })
const rotate = requestSchema('RotateApiKey', rotationSchema, {
  overlap_s: 'How long the old secret works beside the new one; at most 30 days.',
})

const keySchema = answerSchema(
  'ApiKey',
  z.strictObject({
    object: z.literal('api_key'),
    id: z.string(),
    name: z.string(),
    created_at: moment,
    last_used_at: moment.nullable(),
    scope: z.enum(KEY_SCOPES),
    streams: z.array(z.string()).readonly().nullable(),
    sender_domains: z.array(z.string()).readonly().nullable(),
    expires_at: moment.nullable(),
    rate_limit_per_s: z.number().nullable(),
    rate_burst: z.int().nullable(),
    created_by: z.string(),
    previous_expires_at: moment.nullable(),
  }),
  {
    last_used_at: 'To about a minute.',
    previous_expires_at: 'Until when the secret before the last rotation works as well.',
  },
)
export type ApiKeyAnswer = z.output<typeof keySchema>

const createdSchema = answerSchema(
  'CreatedApiKey',
  z.strictObject({
    object: z.literal('api_key'),
    id: z.string(),
    token: z.string(),
    name: z.string(),
    scope: z.enum(KEY_SCOPES),
  }),
  { token: 'The key itself: shown this once, and stored as a hash.' },
)
const rotatedSchema = answerSchema(
  'RotatedApiKey',
  z.strictObject({
    object: z.literal('api_key'),
    id: z.string(),
    token: z.string(),
    previous_expires_at: moment.nullable(),
  }),
  { token: 'The new key: shown this once.' },
)
const revokedSchema = answerSchema(
  'RevokedApiKey',
  z.strictObject({ object: z.literal('api_key'), id: z.string(), deleted: z.literal(true) }),
)
const keyListSchema = listSchema('ApiKeyList', keySchema)

const KEY: ApiKeyAnswer = {
  ...{ object: 'api_key', id: 'k3m9x2p7q1ab', name: 'newsletter', created_at: '2026-11-21T09:00:00.000Z' },
  ...{ last_used_at: null, scope: 'send', streams: ['marketing'], sender_domains: ['news.example.com'] },
  ...{ expires_at: null, rate_limit_per_s: 50, rate_burst: null, created_by: 'api key bootstrap' },
  previous_expires_at: null,
}
const TOKEN = 'sluice_k3m9x2p7q1ab_…'
const idParam = described(z.object({ id: z.string() }), { id: 'Of the key.' })

export const apiKeyOperations: readonly Operation[] = [
  {
    method: 'POST',
    path: '/api-keys',
    id: 'createApiKey',
    tag: 'API keys',
    summary: 'Make a key',
    description:
      'A key gives no more than it has: one that ends, or is slow, makes none that lives longer or is faster.',
    body: {
      schema: create,
      example: { name: 'newsletter', scope: 'send', streams: ['marketing'], rate_limit_per_s: 50 },
    },
    answer: {
      status: 201,
      description: 'Made.',
      schema: createdSchema,
      example: { object: 'api_key', id: KEY.id, token: TOKEN, name: KEY.name, scope: 'send' },
    },
  },
  {
    method: 'GET',
    path: '/api-keys',
    id: 'listApiKeys',
    tag: 'API keys',
    summary: 'List keys',
    description: 'The newest first, without those that are revoked.',
    query: described(pageSchema, PAGE_TEXTS),
    answer: {
      description: 'A page of the list.',
      schema: keyListSchema,
      example: { object: 'list', has_more: false, data: [KEY] },
    },
  },
  {
    method: 'GET',
    path: '/api-keys/:id',
    id: 'getApiKey',
    tag: 'API keys',
    summary: 'Look at a key',
    params: idParam,
    answer: { description: 'All but its secret.', schema: keySchema, example: KEY },
  },
  {
    method: 'PATCH',
    path: '/api-keys/:id',
    id: 'changeApiKey',
    tag: 'API keys',
    summary: 'Change a key',
    description: 'Everything but its scope; null takes a limit away.',
    params: idParam,
    body: { schema: change, example: { rate_limit_per_s: 100 } },
    answer: { description: 'As it is now.', schema: keySchema, example: { ...KEY, rate_limit_per_s: 100 } },
  },
  {
    method: 'DELETE',
    path: '/api-keys/:id',
    id: 'revokeApiKey',
    tag: 'API keys',
    summary: 'Revoke a key',
    params: idParam,
    answer: {
      description: 'Revoked: at once in this process, within two seconds in every other.',
      schema: revokedSchema,
      example: { object: 'api_key', id: KEY.id, deleted: true },
    },
  },
  {
    method: 'POST',
    path: '/api-keys/:id/rotate',
    id: 'rotateApiKey',
    tag: 'API keys',
    summary: 'Give a key a new secret',
    params: idParam,
    body: { schema: rotate, example: { overlap_s: 86_400 } },
    answer: {
      description: 'The new secret; the old one works until the overlap is over.',
      schema: rotatedSchema,
      example: {
        ...{ object: 'api_key', id: KEY.id, token: TOKEN },
        previous_expires_at: '2026-11-22T09:00:00.000Z',
      },
    },
  },
]
