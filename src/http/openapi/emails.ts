import { z } from 'zod'
import { messageSchema } from '../../message/message-shape.ts'
import { MESSAGE_STATES } from '../../states.ts'
import { rescheduleSchema } from '../email-changes.ts'
import type { LIST_PARAMETERS } from '../email-list.ts'
import {
  batchAnswerSchema,
  bulkAnswerSchema,
  changedEmailSchema,
  emailListSchema,
  emailSchema,
  sentEmailSchema,
} from './email-answers.ts'
import { EMAIL, LISTED_EMAIL } from './email-examples.ts'
import { described, type Operation, requestSchema } from './operation.ts'
import { pageParameters } from './page-parameters.ts'

const ID = '019ac5a8-1f2e-7c31-9d54-6f1f4a0c2b7e'
const OTHER_ID = '019ac5a8-1f2f-7b20-8c11-0a6b5d3e9f42'

const MESSAGE_TEXTS = {
  from: 'One mailbox: `a@b.c` or `Name <a@b.c>`. May be left out with a `template` that has one.',
  to: 'One mailbox or a list; with `cc` and `bcc` at most 50.',
  cc: 'As `to`.',
  bcc: 'As `to`.',
  reply_to: 'One mailbox or a list.',
  subject: 'One line of at most 998 characters. May be left out with a `template` that has one.',
  html: 'At least one of `html`, `text` and `template` is required.',
  text: 'Made of the `html` when it is left out; an empty one asks for a mail without.',
  headers: 'Your own, at most 50; those that Sluice writes are refused.',
  attachments:
    'At most 100, and 40 MB in all. `content` is base64; `path` is a URL on one of the hosts that SLUICE_ATTACHMENT_HOSTS lists; `content_id` is for `cid:` in the HTML.',
  tags: 'At most 50, of ASCII letters, digits, `_` and `-`: for finding and counting.',
  metadata: 'At most 50 strings, given back by `GET /emails/:id`.',
  template: 'A published template by its id, alias or name, in place of `html` and `text`.',
  scheduled_at:
    'ISO 8601 with an offset, or a short form such as `in 1 hour` or `tomorrow at 9am`; at most 30 days ahead. At once when absent.',
  stream: '`transactional` when absent.',
  priority: '0 goes first, 9 last; that of the stream when absent.',
  sensitive:
    'Encrypts the content wherever it is stored, removes it on sending, and never shows it; addresses, `tags` and `metadata` stay readable. Needs SLUICE_ENCRYPTION_KEYS.',
}

const email = requestSchema('SendEmail', messageSchema, MESSAGE_TEXTS)

const bulkMessage = requestSchema('BulkMessage', messageSchema.omit({ to: true, cc: true, bcc: true }), {
  ...omit(MESSAGE_TEXTS, 'to', 'cc', 'bcc'),
  stream: '`marketing` when absent.',
})
export const bulkRecipient = requestSchema(
  'BulkRecipient',
  messageSchema.pick({ to: true, cc: true, headers: true, metadata: true, tags: true }).extend({
    variables: z.record(z.string(), z.unknown()).optional(),
  }),
  {
    to: 'Of one mail.',
    cc: 'Of the same mail.',
    variables: "Over those of the message's `template`.",
    headers: 'Over those of the message.',
    metadata: 'Over that of the message.',
    tags: 'After those of the message.',
  },
)
/** Read as it arrives (bulk-reader.ts), each part by the schema of the mail it becomes. */
const bulkSchema = requestSchema(
  'SendBulk',
  z.strictObject({ message: bulkMessage, recipients: z.array(bulkRecipient).min(1).max(10_000) }),
  {
    message:
      'An email without `to`, `cc` and `bcc`; stands before `recipients`, since the body is read as it arrives.',
    recipients: 'One mail each.',
  },
)

const reschedule = requestSchema('RescheduleEmail', rescheduleSchema, {
  scheduled_at: 'The new moment, in any form that sending takes.',
})

const idParam = described(z.object({ id: z.uuid() }), { id: 'Of the email.' })

const idempotency = { 'Idempotency-Key': z.string().min(1).max(256).optional() }
const IDEMPOTENCY_TEXT =
  'Repeat as often as needed within 24 hours: the same body gets the first answer again and sends nothing, another body 409.'
const validation = { 'x-batch-validation': z.enum(['strict', 'permissive']).optional() }
const VALIDATION_TEXT =
  '`strict`, the default: one bad entry refuses all. `permissive`: it is left out, and listed in the answer.'
const manyHeaders = described(z.object({ ...idempotency, ...validation }), {
  'Idempotency-Key': IDEMPOTENCY_TEXT,
  'x-batch-validation': VALIDATION_TEXT,
})

const optional = z.string().optional()
/** Read by hand (email-list.ts), for errors that say what would be right. */
const listParameters: Record<(typeof LIST_PARAMETERS)[number], z.ZodType> = {
  ...pageParameters(100, 20),
  status: z.enum(MESSAGE_STATES).optional(),
  last_event: optional,
  stream: optional,
  tag: optional,
  recipient: optional,
  accepted_after: z.iso.datetime({ offset: true }).optional(),
  accepted_before: z.iso.datetime({ offset: true }).optional(),
}

const ORDER = {
  from: 'Shop <shop@example.com>',
  to: ['Ann <ann@example.com>'],
  subject: 'Your order 1042',
  html: '<p>Thank you, Ann.</p>',
  tags: [{ name: 'kind', value: 'order' }],
}

export const emailOperations: readonly Operation[] = [
  {
    method: 'POST',
    path: '/emails',
    id: 'sendEmail',
    tag: 'Emails',
    summary: 'Send an email',
    description:
      'Accepted durably before it is answered, unless the request asks for `buffered`. Providers and their limits never make the caller wait.',
    headers: described(
      z.object({ ...idempotency, 'Sluice-Durability': z.enum(['durable', 'buffered']).optional() }),
      {
        'Idempotency-Key': IDEMPOTENCY_TEXT,
        'Sluice-Durability':
          '`buffered` is answered sooner, and can be lost by a crash of Postgres within the next milliseconds.',
      },
    ),
    body: { schema: email, example: ORDER },
    answer: {
      description: 'Accepted.',
      schema: sentEmailSchema,
      example: { id: ID },
      headers: ['Sluice-Durability', 'Idempotent-Replayed'],
    },
    problems: [403, 409],
  },
  {
    method: 'GET',
    path: '/emails',
    id: 'listEmails',
    tag: 'Emails',
    summary: 'List emails',
    description: 'Newest first, without their bodies. All parameters that are given must fit.',
    query: described(z.object(listParameters), {
      limit: 'How many at most.',
      after: 'The `id` of an email of the list: the page of older ones next to it.',
      before: 'The same, of newer ones. One of the two.',
      status: 'The state they are in.',
      last_event: "Resend's word for it.",
      stream: 'Its name.',
      tag: '`name`, or `name:value`.',
      recipient: 'A whole address, in to, cc or bcc.',
      accepted_after: 'A moment with its offset.',
      accepted_before: 'A moment with its offset.',
    }),
    answer: {
      description: 'A page of the list.',
      schema: emailListSchema,
      example: { object: 'list', has_more: false, data: [LISTED_EMAIL] },
    },
  },
  {
    method: 'POST',
    path: '/emails/batch',
    id: 'sendBatch',
    tag: 'Emails',
    summary: 'Send up to 100 emails of their own',
    description: 'Accepted durably and together; one idempotency key covers them all.',
    headers: manyHeaders,
    body: {
      schema: z.array(email).min(1).max(100),
      example: [ORDER, { ...ORDER, to: 'bob@example.com', subject: 'Your order 1043' }],
    },
    answer: {
      description: 'Accepted.',
      schema: batchAnswerSchema,
      example: { data: [{ id: ID }, { id: OTHER_ID }] },
      headers: ['Sluice-Durability', 'Idempotent-Replayed'],
    },
    problems: [403, 409],
  },
  {
    method: 'POST',
    path: '/emails/bulk',
    id: 'sendBulk',
    tag: 'Emails',
    summary: 'Send one message to up to 10,000 recipients, one mail each',
    description:
      'Stored as it arrives, all or none. Not counted by the rate limit of the key, and larger than other bodies: `SLUICE_MAX_BULK_BYTES`.',
    headers: manyHeaders,
    body: {
      schema: bulkSchema,
      example: {
        message: { from: 'news@example.com', template: { id: 'newsletter', variables: { month: 'May' } } },
        recipients: [
          { to: 'Ann <ann@example.com>', variables: { name: 'Ann' } },
          { to: 'bob@example.com', variables: { name: 'Bob' }, metadata: { customer: '2' } },
        ],
      },
    },
    answer: {
      description: 'Accepted.',
      schema: bulkAnswerSchema,
      example: { object: 'bulk', accepted: 2, data: [{ id: ID }, { id: OTHER_ID }] },
      headers: ['Sluice-Durability', 'Idempotent-Replayed'],
    },
    problems: [403, 408, 409],
  },
  {
    method: 'GET',
    path: '/emails/:id',
    id: 'getEmail',
    tag: 'Emails',
    summary: 'Follow an email',
    params: idParam,
    answer: { description: 'The email, with what happened to it.', schema: emailSchema, example: EMAIL },
  },
  {
    method: 'PATCH',
    path: '/emails/:id',
    id: 'rescheduleEmail',
    tag: 'Emails',
    summary: 'Move an email to another moment',
    description: 'Until a worker claims it for sending.',
    params: idParam,
    body: { schema: reschedule, example: { scheduled_at: 'in 2 hours' } },
    answer: { description: 'Moved.', schema: changedEmailSchema, example: { object: 'email', id: ID } },
  },
  {
    method: 'POST',
    path: '/emails/:id/cancel',
    id: 'cancelEmail',
    tag: 'Emails',
    summary: 'Cancel an email',
    description:
      'Until a worker claims it for sending. After a 200 it is not sent; a second time is no error.',
    params: idParam,
    answer: { description: 'Canceled.', schema: changedEmailSchema, example: { object: 'email', id: ID } },
    problems: [422],
  },
]

function omit<T extends object, K extends keyof T>(texts: T, ...keys: readonly K[]): Omit<T, K> {
  return Object.fromEntries(Object.entries(texts).filter(([key]) => !keys.includes(key as K))) as Omit<T, K>
}
