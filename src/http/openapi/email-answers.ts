import { z } from 'zod'
import { MESSAGE_STATES } from '../../states.ts'
import { answerSchema, listSchema, moment } from './operation.ts'

const LAST_EVENTS = [
  ...['queued', 'scheduled', 'delivery_delayed', 'sent', 'delivered', 'opened', 'clicked', 'bounced'],
  ...['complained', 'failed', 'suppressed', 'canceled'],
] as const

export type LastEvent = (typeof LAST_EVENTS)[number]

/** What Resend shows of an email everywhere. */
const headSchema = z.strictObject({
  id: z.uuid(),
  message_id: z.string().nullable(),
  to: z.array(z.string()),
  from: z.string().nullable(),
  created_at: z.string(),
  subject: z.string().nullable(),
  bcc: z.array(z.string()),
  cc: z.array(z.string()),
  reply_to: z.array(z.string()),
  last_event: z.enum(LAST_EVENTS),
  scheduled_at: moment.nullable(),
})
export type EmailHead = z.output<typeof headSchema>

const tags = z.array(z.strictObject({ name: z.string(), value: z.string() }).readonly()).readonly()

const HEAD_TEXTS = {
  message_id: 'The `Message-ID` header: the same on every attempt.',
  created_at: 'When it was accepted, as Postgres writes it.',
  last_event: "Resend's word for what happened last.",
  scheduled_at: 'The moment it was accepted for; null when it was to go out at once.',
}
const STATUS_TEXT = 'The state it is in.'
const SENSITIVE_TEXT =
  'Its content is encrypted and never shown: no subject, bodies or attachments, and no words of providers.'

export const listedEmailSchema = answerSchema(
  'ListedEmail',
  z.strictObject({
    ...headSchema.shape,
    tags,
    status: z.enum(MESSAGE_STATES),
    stream: z.string(),
    sensitive: z.boolean(),
  }),
  { ...HEAD_TEXTS, status: STATUS_TEXT, sensitive: SENSITIVE_TEXT },
)
export type ListedEmailAnswer = z.output<typeof listedEmailSchema>

const eventSchema = z.strictObject({
  at: moment,
  type: z.string(),
  recipient: z.string().nullable(),
  detail: z.record(z.string(), z.unknown()).readonly().nullable(),
})

const attachmentSchema = z.strictObject({
  filename: z.string(),
  content_type: z.string(),
  content_id: z.string().nullable(),
  size: z.int().nullable(),
})
export type AttachmentAnswer = z.output<typeof attachmentSchema>

export const emailSchema = answerSchema(
  'Email',
  z.strictObject({
    object: z.literal('email'),
    ...headSchema.shape,
    html: z.string().nullable(),
    text: z.string().nullable(),
    tags,
    attachments: z.array(attachmentSchema),
    metadata: z.record(z.string(), z.string()),
    content_removed: z.boolean(),
    status: z.enum(MESSAGE_STATES),
    stream: z.string(),
    sensitive: z.boolean(),
    priority: z.int(),
    provider: z.string().nullable(),
    provider_message_id: z.string().nullable(),
    attempts: z.int(),
    sent_at: moment.nullable(),
    next_attempt_at: moment.nullable(),
    template: z.strictObject({ name: z.string(), version: z.int().nullable() }).nullable(),
    error: z.strictObject({ code: z.string(), reason: z.string().nullable() }).nullable(),
    timeline: z.array(eventSchema.readonly()).readonly(),
  }),
  {
    ...HEAD_TEXTS,
    html: 'As it was rendered, once it is.',
    text: 'As it was rendered; null when the message has none, or one is made of the HTML when it is sent.',
    attachments: 'Without their bytes; of one that is named by a URL, the size is null until it was fetched.',
    content_removed: "True once its stream's retention took bodies, subject and attachments away.",
    status: STATUS_TEXT,
    sensitive: SENSITIVE_TEXT,
    provider: 'Where it was routed to, or left by.',
    provider_message_id: "The provider's own id of it.",
    next_attempt_at: 'When it is tried again, while it is `deferred`.',
    template: 'The template it was rendered from, and the version.',
    error: 'The last failure; of a dead letter, why it died.',
    timeline: 'What happened, in order; `recipient` is null for what concerns all.',
  },
)
export type EmailAnswer = z.output<typeof emailSchema>

export const emailListSchema = listSchema('EmailList', listedEmailSchema)

export const sentEmailSchema = answerSchema('SentEmail', z.strictObject({ id: z.uuid() }))
export const changedEmailSchema = answerSchema(
  'ChangedEmail',
  z.strictObject({ object: z.literal('email'), id: z.uuid() }),
)

const refusedEntry = z.strictObject({ index: z.int(), message: z.string() })

export const batchAnswerSchema = answerSchema(
  'BatchAnswer',
  z.strictObject({ data: z.array(sentEmailSchema), errors: z.array(refusedEntry).optional() }),
  {
    data: 'One for each email that was accepted, in the order given.',
    errors: 'Only with `x-batch-validation: permissive`: what was left out, by its place in the list.',
  },
)

export const bulkAnswerSchema = answerSchema(
  'BulkAnswer',
  z.strictObject({
    object: z.literal('bulk'),
    accepted: z.int(),
    data: z.array(sentEmailSchema),
    rejected: z.int().optional(),
    errors: z.array(refusedEntry).optional(),
  }),
  {
    accepted: 'How many mails there will be.',
    data: 'One for each recipient that was accepted, in the order given.',
    rejected: 'Only with `x-batch-validation: permissive`: how many recipients were left out.',
    errors: 'The first 100 of those, by their place in the list.',
  },
)
