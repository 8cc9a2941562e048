import { z } from 'zod'
import { WEBHOOK_KINDS, type WebhookKind } from '../../webhook-kinds.ts'
import { namePattern } from '../control.ts'
import { sourceSchema } from '../webhook-sources.ts'
import { answerSchema, described, listSchema, moment, type Operation, requestSchema } from './operation.ts'

const source = requestSchema('SaveWebhookSource', sourceSchema, {
  kind: 'Whose shape and proof the calls have.',
  provider: 'Which of our providers it speaks for; null when that does not matter.',
  secrets_env: 'The environment variable that holds the secrets of its proof.',
  options: '`topic_arns`: of `ses`, the SNS topics that may call.',
})

const rowSchema = answerSchema(
  'WebhookSource',
  z.strictObject({
    object: z.literal('webhook_source'),
    name: z.string(),
    kind: z.enum(WEBHOOK_KINDS),
    provider: z.string().nullable(),
    secrets_env: z.string().nullable(),
    options: z.record(z.string(), z.unknown()),
    created_at: moment,
    path: z.string(),
    waiting: z.int(),
    parked: z.int(),
    refused: z.int(),
    last_refused_at: moment.nullable(),
    last_refusal: z.string().nullable(),
  }),
  {
    path: 'Where it is called.',
    waiting: 'Calls that are stored and not applied yet.',
    parked: 'Calls that could not be applied.',
    refused: 'Calls without the right proof.',
  },
)
const sourceListSchema = listSchema('WebhookSourceList', rowSchema)
const removedSchema = answerSchema(
  'RemovedWebhookSource',
  z.strictObject({ object: z.literal('webhook_source'), name: z.string(), deleted: z.literal(true) }),
)
const receivedSchema = answerSchema('Received', z.strictObject({ received: z.literal(true) }))

const SOURCE = {
  ...{ object: 'webhook_source', name: 'postmark', kind: 'postmark', provider: 'postmark' },
  ...{ secrets_env: 'POSTMARK_WEBHOOK', options: {}, created_at: '2026-11-21T09:00:00.000Z' },
  ...{ path: '/webhooks/postmark/postmark', waiting: 0, parked: 0, refused: 0 },
  ...{ last_refused_at: null, last_refusal: null },
}
const nameParam = described(z.object({ name: namePattern }), { name: 'Of the source.' })

const PROOFS: Readonly<
  Record<Exclude<WebhookKind, 'dsn'>, { title: string; proof: string; example: object }>
> = {
  ses: {
    title: 'Amazon SES, through SNS',
    proof: 'Signed by Amazon SNS, from a topic that the source names.',
    example: { Type: 'Notification', TopicArn: 'arn:aws:sns:eu-central-1:123456789012:mail', Message: '{…}' },
  },
  sendgrid: {
    title: 'SendGrid',
    proof: 'Signed: `X-Twilio-Email-Event-Webhook-Signature`.',
    example: [{ event: 'delivered', email: 'ann@example.com', sg_event_id: '…' }],
  },
  mailgun: {
    title: 'Mailgun',
    proof: 'Signed: `signature` in the body.',
    example: {
      signature: { timestamp: '…', token: '…', signature: '…' },
      'event-data': { event: 'delivered' },
    },
  },
  postmark: {
    title: 'Postmark',
    proof: 'Basic authentication, or a header of its own.',
    example: { RecordType: 'Delivery', Recipient: 'ann@example.com' },
  },
  resend: {
    title: 'Resend',
    proof: 'Signed as Standard Webhooks are: `svix-id`, `svix-timestamp`, `svix-signature`.',
    example: { type: 'email.delivered', data: { email_id: '…' } },
  },
  generic: {
    title: 'anything else',
    proof: 'Signed as Standard Webhooks are: `webhook-id`, `webhook-timestamp`, `webhook-signature`.',
    example: {
      events: [
        {
          type: 'bounced',
          sluice_id: '019ac5a8-1f2e-7c31-9d54-6f1f4a0c2b7e',
          recipient: 'ann@example.com',
          bounce: { kind: 'hard', reason: 'no such user' },
        },
      ],
    },
  },
}

export const webhookSourceOperations: readonly Operation[] = [
  {
    method: 'GET',
    path: '/webhook-sources',
    id: 'listWebhookSources',
    tag: 'Webhook sources',
    summary: 'List webhook sources and how they are doing',
    answer: {
      description: 'All of them, by name.',
      schema: sourceListSchema,
      example: { object: 'list', has_more: false, data: [SOURCE] },
    },
  },
  {
    method: 'PUT',
    path: '/webhook-sources/:name',
    id: 'saveWebhookSource',
    tag: 'Webhook sources',
    summary: 'Make or replace a webhook source',
    description: 'Holds within a second.',
    params: nameParam,
    body: {
      schema: source,
      example: { kind: 'postmark', provider: 'postmark', secrets_env: 'POSTMARK_WEBHOOK' },
    },
    answer: { description: 'As it is now.', schema: rowSchema, example: SOURCE },
  },
  {
    method: 'DELETE',
    path: '/webhook-sources/:name',
    id: 'removeWebhookSource',
    tag: 'Webhook sources',
    summary: 'Remove a webhook source',
    params: nameParam,
    answer: {
      description: 'Gone.',
      schema: removedSchema,
      example: { object: 'webhook_source', name: 'postmark', deleted: true },
    },
    problems: [422],
  },
]

const endpointParam = described(z.object({ endpoint: namePattern }), {
  endpoint: 'The name of a webhook source.',
})

const eventOperations = Object.entries(PROOFS).map(
  ([kind, { title, proof, example }]): Operation => ({
    method: 'POST',
    path: `/webhooks/${kind}/:endpoint`,
    id: `receive${kind.charAt(0).toUpperCase()}${kind.slice(1)}`,
    tag: 'Provider webhooks',
    summary: `Events of ${title}`,
    description: `${proof} Stored durably before the answer, and applied soon after.`,
    params: endpointParam,
    // Read by the feedback stage, which takes what it knows of it.
    body: { schema: z.unknown(), example },
    answer: { description: 'Stored.', schema: receivedSchema, example: { received: true } },
    problems: [401, 413, 503],
  }),
)

const report = {
  method: 'POST',
  tag: 'Provider webhooks',
  description:
    "As an MTA's pipe or an inbound route hands it over, whatever its content type. Let in by the credentials of the source, or an API key of scope `operate` or `full`.",
  body: {
    schema: z.string(),
    type: 'message/rfc822',
    example:
      'From: mailer-daemon@example.net\r\nContent-Type: multipart/report; report-type=delivery-status\r\n…',
  },
  answer: { description: 'Stored.', schema: receivedSchema, example: { received: true } },
  problems: [401, 413, 503],
} as const satisfies Partial<Operation>

export const providerWebhookOperations: readonly Operation[] = [
  ...eventOperations,
  {
    ...report,
    path: '/webhooks/dsn',
    id: 'receiveReport',
    summary: 'A bounce or complaint as mail, for the source `dsn`',
  },
  {
    ...report,
    path: '/webhooks/dsn/:endpoint',
    id: 'receiveReportFor',
    summary: 'A bounce or complaint as mail',
    params: endpointParam,
  },
]
