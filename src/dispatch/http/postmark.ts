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
import { addressesOf, mailboxText } from './recipients.ts'
import { type ApiFault, type ApiRule, classifyFault, safeText } from './verdict.ts'

/** Postmark: postmarkapp.com/developer/api/email-api */

export type PostmarkSettings = { readonly serverToken: string; readonly messageStream?: string }

/** "Send a single email": 10 MB, attachments in base64; "Send batch emails": 500 messages and 50 MB, 200 with an answer for each. */
const MAX_BYTES = 10_000_000
const MAX_BATCH = 500
const MAX_BATCH_BYTES = 50_000_000

/** postmarkapp.com/developer/api/overview#error-codes */
const RULES: readonly ApiRule[] = [
  { providerCodes: ['10'], verdict: { kind: 'unreachable', code: 'auth_failed' } },
  { providerCodes: ['100'], verdict: { kind: 'unreachable', code: 'service_unavailable' } },
  // One number for every invalid field; only the words name the field.
  {
    providerCodes: ['300'],
    text: /^Invalid '(?:To|Cc|Bcc)' address/,
    verdict: { kind: 'refused', code: 'bad_recipient' },
  },
  {
    providerCodes: ['300'],
    text: /^Invalid 'From' address/,
    verdict: { kind: 'refused', code: 'sender_refused' },
  },
  { providerCodes: ['300'], verdict: { kind: 'refused', code: 'request_refused' } },
  { providerCodes: ['400', '401'], verdict: { kind: 'unreachable', code: 'sender_unverified' } },
  { providerCodes: ['405'], verdict: { kind: 'unreachable', code: 'quota_exceeded' } },
  { providerCodes: ['406'], verdict: { kind: 'refused', code: 'recipient_suppressed' } },
  { providerCodes: ['411'], verdict: { kind: 'refused', code: 'content_refused' } },
  { providerCodes: ['412', '413'], verdict: { kind: 'unreachable', code: 'account_paused' } },
  { providerCodes: ['429'], verdict: { kind: 'unreachable', code: 'throttled' } },
  // The message stream does not exist, or is archived.
  { providerCodes: ['1235', '1236'], verdict: { kind: 'unreachable', code: 'provider_misconfigured' } },
]

const Result = z.object({
  ErrorCode: z.int(),
  Message: z.string(),
  MessageID: z.string().optional(),
})
const Results = z.array(Result)

export function postmarkApi({ serverToken, messageStream }: PostmarkSettings): MailApi {
  const headers = { 'x-postmark-server-token': serverToken }
  const toMessage = (piece: Piece) => message(piece, messageStream)
  return {
    maxBytes: MAX_BYTES,
    secrets: [serverToken],
    writesHeaders: true,
    rules: RULES,
    toRequest: (piece) => jsonRequest('/email', headers, toMessage(piece)),
    readAnswer: ({ status, body }, piece) => readResult(status, readJson(Result, body), piece),
    batch: {
      size: MAX_BATCH,
      takesAttachments: true,
      maxBytes: MAX_BATCH_BYTES,
      toRequest: (pieces) => jsonRequest('/email/batch', headers, pieces.map(toMessage)),
      readAnswer: readBatch,
    },
    check: { request: () => ({ path: '/server', headers }), read: readServer },
  }
}

/** postmarkapp.com/developer/api/server-api: 401 with error code 10 for a wrong token. */
function readServer({ status }: CheckAnswer): CheckResult {
  if (status === 200) return { verdict: 'usable', words: 'the server token is accepted' }
  if (status === 401 || status === 403)
    return { verdict: 'refused', words: 'the server token is not accepted' }
  return unreadable(status)
}

function message({ mail, addressing }: Piece, stream: string | undefined) {
  const list = (addresses: Piece['addressing']['to']) => addresses.map(mailboxText).join(', ')
  const headers = {
    ...mail.headers,
    'Message-ID': mail.messageId,
    // Without it Postmark puts an id of its own in place of ours.
    'X-PM-KeepID': 'true',
    'X-Sluice-Id': mail.id,
  }
  const isEmpty = (mail.text ?? '') === '' && (mail.html ?? '') === ''
  return {
    From: mailboxText(mail.from),
    To: list(addressing.to),
    ...(addressing.cc.length === 0 ? {} : { Cc: list(addressing.cc) }),
    ...(addressing.bcc.length === 0 ? {} : { Bcc: list(addressing.bcc) }),
    ...(mail.replyTo.length === 0 ? {} : { ReplyTo: list(mail.replyTo) }),
    Subject: mail.subject,
    ...(mail.html === undefined ? {} : { HtmlBody: mail.html }),
    // A message without any body is refused.
    ...(isEmpty ? { TextBody: ' ' } : mail.text === undefined ? {} : { TextBody: mail.text }),
    Headers: Object.entries(headers).map(([Name, Value]) => ({ Name, Value })),
    // Comes back with every webhook.
    Metadata: { sluice_id: mail.id },
    ...(stream === undefined ? {} : { MessageStream: stream }),
    ...(mail.attachments === undefined ? {} : { Attachments: mail.attachments.map(attachment) }),
  }
}

/** "Attachments" and "Inline images" of …/user-guide/send-email-with-api. */
function attachment({ filename, contentType, contentId, content }: OutgoingAttachment) {
  return {
    Name: filename,
    Content: new Base64Bytes(content),
    ContentType: contentType,
    ...(contentId === undefined ? {} : { ContentID: `cid:${contentId}` }),
  }
}

function readResult(
  status: number,
  result: z.infer<typeof Result> | undefined,
  piece: Piece | undefined,
): Accepted | ApiFault {
  if (result === undefined) return { status }
  const { ErrorCode: code, Message: text, MessageID: id } = result
  if (status !== 200 || code !== 0)
    return { status: status === 200 ? 422 : status, providerCode: String(code), text }
  if (id === undefined || id === '') return { status }
  return {
    kind: 'accepted',
    reply: `200 ${safeText(text, [])}`,
    providerMessageId: safeText(id, []),
    refused: inactiveRecipients(text, piece),
  }
}

/**
 * With some recipients inactive the others get the mail, and only the words say who does not: "Message OK, but will not
 * deliver to these inactive addresses: a@b.test, c@d.test". Only addresses of this message are believed.
 */
function inactiveRecipients(text: string, piece: Piece | undefined): Accepted['refused'] {
  const [, listed] = /inactive addresses: ([^\r\n]*)/i.exec(text) ?? []
  if (listed === undefined || piece === undefined) return []
  const inactive = new Set(listed.split(/[\s,;]+/).map((address) => address.replace(/\.$/, '').toLowerCase()))
  return addressesOf(piece.addressing)
    .filter((recipient) => inactive.has(recipient.toLowerCase()))
    .map((recipient) => ({
      recipient,
      permanent: true,
      code: 'recipient_suppressed' as const,
      reply: 'inactive recipient',
      providerCode: '406',
    }))
}

function readBatch({ status, body }: HttpAnswer, pieces: readonly Piece[]): BatchAnswer {
  if (status !== 200) {
    const fault = readResult(status, readJson(Result, body), undefined) as ApiFault
    // A refusal of all is about their size, or about one of them: it must not condemn the others.
    return classifyFault(RULES, fault).kind === 'refused' ? { kind: 'alone' } : { kind: 'whole', fault }
  }
  const results = readJson(Results, body)
  // Results have no name but their place: with one missing, nobody knows whose they are.
  if (results?.length !== pieces.length) return { kind: 'whole', fault: { status } }
  return { kind: 'each', entries: results.map((result, index) => readResult(status, result, pieces[index])) }
}
