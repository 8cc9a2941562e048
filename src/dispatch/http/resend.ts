import { hash } from 'node:crypto'
import { z } from 'zod'
import type { OutgoingAttachment } from '../mime/attachment-part.ts'
import { type CheckAnswer, type CheckResult, unreadable } from './api-check.ts'
import type { HttpAnswer } from './client.ts'
import { Base64Bytes } from './json-body.ts'
import {
  type Accepted,
  type BatchAnswer,
  jsonRequest,
  type MailApi,
  type Piece,
  readJson,
} from './mail-api.ts'
import { mailboxText } from './recipients.ts'
import { type ApiFault, type ApiRule, classifyFault, safeText } from './verdict.ts'

/** Resend: resend.com/docs/api-reference/emails/send-email and …/send-batch-emails */

export type ResendSettings = { readonly apiKey: string }

/** "40MB max per email, after Base64 encoding of the attachments". */
const MAX_BYTES = 40_000_000
const MAX_BATCH = 100
/** No limit of the whole is documented; this keeps a batch within what one message may be. */
const MAX_BATCH_BYTES = 29_000_000

/** resend.com/docs/api-reference/errors. Some names come with two statuses, so the name goes first. */
const RULES: readonly ApiRule[] = [
  {
    providerCodes: [
      'missing_api_key',
      'restricted_api_key',
      'invalid_api_key',
      'suspended_api_key',
      'invalid_permission',
      'invalid_access',
    ],
    verdict: { kind: 'unreachable', code: 'auth_failed' },
  },
  // 403 is "the domain is not verified" and "you can only send testing emails to your own address".
  {
    statuses: [403],
    providerCodes: ['validation_error', 'invalid_from_address', 'invalid_to_address'],
    verdict: { kind: 'unreachable', code: 'sender_unverified' },
  },
  {
    providerCodes: ['daily_quota_exceeded', 'monthly_quota_exceeded', 'email_above_quota'],
    verdict: { kind: 'unreachable', code: 'quota_exceeded' },
  },
  { providerCodes: ['rate_limit_exceeded'], verdict: { kind: 'unreachable', code: 'throttled' } },
  // An earlier attempt is still under way; its outcome will be the answer to the next one.
  {
    providerCodes: ['concurrent_idempotent_requests', 'resource_locked'],
    verdict: { kind: 'deferred', code: 'request_in_progress' },
  },
  // An earlier attempt of this message, with other recipients or content, was answered and the answer lost.
  {
    providerCodes: ['invalid_idempotent_request'],
    verdict: { kind: 'unknown', code: 'idempotency_conflict' },
  },
  { providerCodes: ['invalid_from_address'], verdict: { kind: 'refused', code: 'sender_refused' } },
  { providerCodes: ['security_error'], verdict: { kind: 'refused', code: 'content_refused' } },
  {
    providerCodes: ['not_found', 'method_not_allowed', 'invalid_region'],
    verdict: { kind: 'unreachable', code: 'provider_misconfigured' },
  },
]

const Sent = z.object({ id: z.string().min(1) })
const Refused = z.object({ name: z.string(), message: z.string() })
const SentBatch = z.object({
  data: z.array(Sent),
  errors: z.array(z.object({ index: z.int(), message: z.string() })).optional(),
})

/** resend.com/docs/api-reference/errors: a key that may only send is told so when it asks for anything else. */
function readDomains({ status, body }: CheckAnswer): CheckResult {
  if (status === 200) return { verdict: 'usable', words: 'the API key is accepted' }
  if (readJson(Refused, body)?.name === 'restricted_api_key') {
    return { verdict: 'usable', words: 'the API key is accepted, and may only send' }
  }
  return [400, 401, 403].includes(status)
    ? { verdict: 'refused', words: 'the API key is not accepted' }
    : unreadable(status)
}

export function resendApi({ apiKey }: ResendSettings): MailApi {
  const authorization = `Bearer ${apiKey}`
  return {
    maxBytes: MAX_BYTES,
    secrets: [apiKey],
    writesHeaders: true,
    rules: RULES,
    // Kept for 24 hours: within them a retry of the same mail is answered, not sent.
    toRequest: (piece) =>
      jsonRequest('/emails', { authorization, 'idempotency-key': piece.key }, content(piece)),
    readAnswer,
    check: { request: () => ({ path: '/domains', headers: { authorization } }), read: readDomains },
    batch: {
      size: MAX_BATCH,
      takesAttachments: false,
      maxBytes: MAX_BATCH_BYTES,
      toRequest: (pieces) =>
        jsonRequest(
          '/emails/batch',
          {
            authorization,
            // Covers the batch as a whole: only the same messages in the same order are recognised.
            'idempotency-key': hash('sha256', pieces.map(({ key }) => key).join()),
            'x-batch-validation': 'permissive',
          },
          pieces.map(content),
        ),
      readAnswer: readBatch,
    },
  }
}

function content({ mail, addressing }: Piece) {
  const { to, cc, bcc } = addressing
  return {
    from: mailboxText(mail.from),
    to: to.map(mailboxText),
    ...(cc.length === 0 ? {} : { cc: cc.map(mailboxText) }),
    ...(bcc.length === 0 ? {} : { bcc: bcc.map(mailboxText) }),
    ...(mail.replyTo.length === 0 ? {} : { reply_to: mail.replyTo.map(mailboxText) }),
    subject: mail.subject,
    ...(mail.html === undefined ? {} : { html: mail.html }),
    ...(mail.text === undefined ? (mail.html === undefined ? { text: '' } : {}) : { text: mail.text }),
    headers: { ...mail.headers, 'Message-ID': mail.messageId, 'X-Sluice-Id': mail.id },
    // Comes back with every webhook.
    tags: [{ name: 'sluice_id', value: mail.id }],
    ...(mail.attachments === undefined ? {} : { attachments: mail.attachments.map(attachment) }),
  }
}

/** "Attachments" of that page; `content_id` makes it inline. */
function attachment({ filename, contentType, contentId, content: bytes }: OutgoingAttachment) {
  return {
    filename,
    content: new Base64Bytes(bytes),
    content_type: contentType,
    ...(contentId === undefined ? {} : { content_id: contentId }),
  }
}

function readAnswer({ status, body }: HttpAnswer): Accepted | ApiFault {
  if (status === 200) {
    const sent = readJson(Sent, body)
    return sent === undefined ? { status } : accepted(sent)
  }
  const refused = readJson(Refused, body)
  return { status, providerCode: refused?.name, text: refused?.message }
}

function accepted({ id }: z.infer<typeof Sent>): Accepted {
  const known = safeText(id, [])
  return { kind: 'accepted', reply: `200 ${known}`, providerMessageId: known, refused: [] }
}

/**
 * In permissive mode `data` has the ids of the mails that were taken, in their order, and `errors` the places of the
 * others, with words but no name. Those are asked alone, which names the fault: it may be the account's.
 */
function readBatch(answer: HttpAnswer, pieces: readonly Piece[]): BatchAnswer {
  if (answer.status !== 200) {
    const fault = readAnswer(answer) as ApiFault
    return classifyFault(RULES, fault).kind === 'refused' ? { kind: 'alone' } : { kind: 'whole', fault }
  }
  const read = readJson(SentBatch, answer.body)
  const failed = new Set(read?.errors?.map(({ index }) => index))
  const ids = read?.data ?? []
  // Ids have no name but their place: when the numbers do not add up, nobody knows whose they are.
  if (ids.length + failed.size !== pieces.length || [...failed].some((index) => index >= pieces.length)) {
    return { kind: 'whole', fault: { status: answer.status } }
  }
  const waiting = [...ids]
  return {
    kind: 'each',
    entries: pieces.map((_, index) => {
      const sent = failed.has(index) ? undefined : waiting.shift()
      return sent === undefined ? 'alone' : accepted(sent)
    }),
  }
}
