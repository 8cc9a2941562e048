import { z } from 'zod'
import { WEBHOOK_EVENTS } from '../../webhook-events.ts'
import { changesSchema, newSchema, replaySchema } from '../webhook-endpoints.ts'
import { answerSchema, described, listSchema, moment, type Operation, requestSchema } from './operation.ts'
import { PAGE_TEXTS, pageParameters } from './page-parameters.ts'

const TEXTS = {
  endpoint: 'The URL that is called.',
  events: 'What it is told of; everything when absent or null.',
  description: 'For people.',
}
const create = requestSchema('NewWebhook', newSchema, TEXTS)
const change = requestSchema('WebhookChanges', changesSchema, {
  ...TEXTS,
  status: '`disabled`: it is told of nothing. A key of scope `operate` may change this and nothing else.',
})
const replay = requestSchema('ReplayWebhookEvents', replaySchema, {
  since: 'Of the first event that is sent again.',
})

const id = z.uuid()
const status = z.enum(['enabled', 'disabled'])
const eventStatus = z.enum(['pending', 'attempting', 'success', 'failed'])

const listedSchema = answerSchema(
  'ListedWebhook',
  z.strictObject({
    id,
    created_at: moment,
    status,
    endpoint: z.string(),
    events: z.array(z.enum(WEBHOOK_EVENTS)).nullable(),
    description: z.string().nullable(),
    failures: z.int(),
    failing_since: moment.nullable(),
    last_failure: z.string().nullable(),
    disabled_at: moment.nullable(),
    disabled_reason: z.string().nullable(),
  }),
  { failures: 'In a row.', events: 'Null for everything.' },
)
const webhookSchema = answerSchema(
  'Webhook',
  z.strictObject({ object: z.literal('webhook'), ...listedSchema.shape }),
)
const secretSchema = answerSchema(
  'WebhookSecret',
  z.strictObject({ object: z.literal('webhook'), id, signing_secret: z.string() }),
  { signing_secret: 'Shown this once.' },
)
const changedSchema = answerSchema('ChangedWebhook', z.strictObject({ object: z.literal('webhook'), id }))
const removedSchema = answerSchema(
  'RemovedWebhook',
  z.strictObject({ object: z.literal('webhook'), id, deleted: z.literal(true) }),
)
const replayedSchema = answerSchema(
  'ReplayedWebhookEvents',
  z.strictObject({ object: z.literal('webhook'), id, replayed: z.int() }),
  { replayed: 'How many events are sent again.' },
)
const listedEventSchema = answerSchema(
  'ListedWebhookEvent',
  z.strictObject({ id: z.string(), type: z.string(), created_at: moment, status: eventStatus }),
)
const eventSchema = answerSchema(
  'WebhookEvent',
  z.strictObject({
    object: z.literal('webhook_event'),
    ...listedEventSchema.shape,
    next_attempt_at: moment.nullable(),
    payload: z.unknown(),
  }),
  { payload: 'What is sent.' },
)
const replayedEventSchema = answerSchema(
  'ReplayedWebhookEvent',
  z.strictObject({ object: z.literal('webhook_event'), id: z.string() }),
)
const attemptSchema = answerSchema(
  'WebhookAttempt',
  z.strictObject({
    id: z.string(),
    http_status_code: z.int().nullable(),
    response: z.string().nullable(),
    sent_at: moment,
    duration_ms: z.int(),
  }),
  { response: 'The beginning of the answer, or why there was none.' },
)
const webhookListSchema = listSchema('WebhookList', listedSchema)
const eventListSchema = listSchema('WebhookEventList', listedEventSchema)
const attemptListSchema = listSchema('WebhookAttemptList', attemptSchema)

const ID = '019ac5a8-4d50-7f26-9a3b-c7f1e0d58b42'
const LISTED: z.output<typeof listedSchema> = {
  ...{ id: ID, created_at: '2026-11-21T09:00:00.000Z', status: 'enabled' },
  ...{ endpoint: 'https://app.example.com/hook', events: ['email.bounced'], description: null },
  ...{ failures: 0, failing_since: null, last_failure: null, disabled_at: null, disabled_reason: null },
}
const EVENT_ID = 'msg_019ac5a85e607a379b4cd8021f69ac53'
const LISTED_EVENT: z.output<typeof listedEventSchema> = {
  ...{ id: EVENT_ID, type: 'email.bounced', created_at: '2026-11-21T09:30:02.000Z', status: 'success' },
}

const idParam = described(z.object({ id }), { id: 'Of the webhook.' })
const eventParams = described(z.object({ id, event: z.string() }), {
  id: 'Of the webhook.',
  event: 'Of the event: `msg_…`.',
})
const page = described(z.object(pageParameters(100, 20)), PAGE_TEXTS)

export const webhookOperations: readonly Operation[] = [
  {
    method: 'POST',
    path: '/webhooks',
    id: 'createWebhook',
    tag: 'Webhooks',
    summary: 'Be told of events',
    description: 'Calls are signed as Standard Webhooks are, and repeated until they are answered with 2xx.',
    body: { schema: create, example: { endpoint: LISTED.endpoint, events: LISTED.events } },
    answer: {
      description: 'Made.',
      schema: secretSchema,
      example: { object: 'webhook', id: ID, signing_secret: 'whsec_…' },
    },
  },
  {
    method: 'GET',
    path: '/webhooks',
    id: 'listWebhooks',
    tag: 'Webhooks',
    summary: 'List webhooks',
    description: 'The latest made first.',
    query: page,
    answer: {
      description: 'A page of the list.',
      schema: webhookListSchema,
      example: { object: 'list', has_more: false, data: [LISTED] },
    },
  },
  {
    method: 'GET',
    path: '/webhooks/:id',
    id: 'getWebhook',
    tag: 'Webhooks',
    summary: 'Look at a webhook',
    params: idParam,
    answer: {
      description: 'All but its secret.',
      schema: webhookSchema,
      example: { object: 'webhook', ...LISTED },
    },
  },
  {
    method: 'PATCH',
    path: '/webhooks/:id',
    id: 'changeWebhook',
    tag: 'Webhooks',
    summary: 'Change a webhook',
    params: idParam,
    body: { schema: change, example: { status: 'disabled' } },
    answer: { description: 'Changed.', schema: changedSchema, example: { object: 'webhook', id: ID } },
  },
  {
    method: 'DELETE',
    path: '/webhooks/:id',
    id: 'removeWebhook',
    tag: 'Webhooks',
    summary: 'Remove a webhook',
    params: idParam,
    answer: {
      description: 'Gone.',
      schema: removedSchema,
      example: { object: 'webhook', id: ID, deleted: true },
    },
  },
  {
    method: 'POST',
    path: '/webhooks/:id/signing-secret/rotate',
    id: 'rotateWebhookSecret',
    tag: 'Webhooks',
    summary: 'Give a webhook a new signing secret',
    params: idParam,
    answer: {
      description: 'The new secret.',
      schema: secretSchema,
      example: { object: 'webhook', id: ID, signing_secret: 'whsec_…' },
    },
  },
  {
    method: 'POST',
    path: '/webhooks/:id/events/replay',
    id: 'replayWebhookEvents',
    tag: 'Webhooks',
    summary: 'Send events again from a moment on',
    params: idParam,
    body: { schema: replay, example: { since: '2026-11-21T09:00:00Z' } },
    answer: {
      description: 'They are sent again.',
      schema: replayedSchema,
      example: { object: 'webhook', id: ID, replayed: 12 },
    },
  },
  {
    method: 'GET',
    path: '/webhooks/:id/events',
    id: 'listWebhookEvents',
    tag: 'Webhooks',
    summary: 'List what a webhook was told',
    description: 'The latest first; events are kept for 30 days.',
    params: idParam,
    query: page,
    answer: {
      description: 'A page of the list.',
      schema: eventListSchema,
      example: { object: 'list', has_more: false, data: [LISTED_EVENT] },
    },
  },
  {
    method: 'GET',
    path: '/webhooks/:id/events/:event',
    id: 'getWebhookEvent',
    tag: 'Webhooks',
    summary: 'Look at an event',
    params: eventParams,
    answer: {
      description: 'With what is sent.',
      schema: eventSchema,
      example: {
        ...{ object: 'webhook_event', ...LISTED_EVENT, next_attempt_at: null },
        payload: { type: 'email.bounced', created_at: LISTED_EVENT.created_at, data: {} },
      },
    },
  },
  {
    method: 'POST',
    path: '/webhooks/:id/events/:event/replay',
    id: 'replayWebhookEvent',
    tag: 'Webhooks',
    summary: 'Send an event again',
    params: eventParams,
    answer: {
      description: 'It is sent again.',
      schema: replayedEventSchema,
      example: { object: 'webhook_event', id: EVENT_ID },
    },
    problems: [422],
  },
  {
    method: 'GET',
    path: '/webhooks/:id/events/:event/attempts',
    id: 'listWebhookAttempts',
    tag: 'Webhooks',
    summary: 'List the attempts to tell of an event',
    description: 'The latest first, at most 20.',
    params: eventParams,
    answer: {
      description: 'All that are kept.',
      schema: attemptListSchema,
      example: {
        object: 'list',
        has_more: false,
        data: [
          {
            ...{ id: `${EVENT_ID}_1`, http_status_code: 200, response: 'ok' },
            ...{ sent_at: '2026-11-21T09:30:02.200Z', duration_ms: 41 },
          },
        ],
      },
    },
  },
]
