import { z } from 'zod'
import type { Address } from '../../message/message.ts'
import type { OutgoingAttachment } from '../mime/attachment-part.ts'
import { type CheckAnswer, type CheckResult, unreadable } from './api-check.ts'
import type { HttpAnswer } from './client.ts'
import { Base64Bytes } from './json-body.ts'
import { type Accepted, jsonRequest, type MailApi, type Piece, readJson } from './mail-api.ts'
import { type ApiFault, type ApiRule, safeText } from './verdict.ts'

/** SendGrid, API v3: www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send */

export type SendGridSettings = { readonly apiKey: string }

/** "Limitations" of that page: 30 MB in all, attachments included; some room is left for the JSON around them. */
const MAX_BYTES = 29_500_000

/**
 * …/how-to-use-the-sendgrid-v3-api/errors and …/mail-send/errors. SendGrid has no error names: the field at fault is
 * the nearest thing.
 */
const RULES: readonly ApiRule[] = [
  {
    statuses: [401, 403],
    text: /credits exceeded/i,
    verdict: { kind: 'unreachable', code: 'quota_exceeded' },
  },
  {
    statuses: [400, 403],
    providerCodes: ['from', 'from.email'],
    text: /verified sender/i,
    verdict: { kind: 'unreachable', code: 'sender_unverified' },
  },
  {
    statuses: [400],
    providerCodes: ['from', 'from.email'],
    verdict: { kind: 'refused', code: 'sender_refused' },
  },
  { statuses: [400], providerCodes: ['recipient'], verdict: { kind: 'refused', code: 'bad_recipient' } },
  // "Unavailable due to data residency restrictions": the base URL is of the wrong region.
  { statuses: [451], verdict: { kind: 'unreachable', code: 'provider_misconfigured' } },
]

const Refused = z.object({
  errors: z
    .array(z.object({ message: z.string(), field: z.string().nullish() }))
    .min(1)
    .max(1_000),
})

export function sendGridApi({ apiKey }: SendGridSettings): MailApi {
  const headers = { authorization: `Bearer ${apiKey}` }
  return {
    maxBytes: MAX_BYTES,
    secrets: [apiKey],
    writesHeaders: true,
    rules: RULES,
    toRequest: (piece) => jsonRequest('/v3/mail/send', headers, content(piece)),
    readAnswer,
    check: { request: () => ({ path: '/v3/scopes', headers }), read: readScopes },
  }
}

const Scopes = z.object({ scopes: z.array(z.string()) })

/** www.twilio.com/docs/sendgrid/api-reference/api-key-permissions: what this key may do. */
function readScopes({ status, body }: CheckAnswer): CheckResult {
  if (status === 401 || status === 403) return { verdict: 'refused', words: 'the API key is not accepted' }
  const read = status === 200 ? readJson(Scopes, body) : undefined
  if (read === undefined) return unreadable(status)
  return read.scopes.includes('mail.send')
    ? { verdict: 'usable', words: 'the API key may send' }
    : { verdict: 'refused', words: 'the API key is valid but lacks the permission mail.send' }
}

function content({ mail, addressing }: Piece) {
  const { to, cc, bcc } = addressing
  // "content": plain text goes first, and an empty part is refused.
  const parts = [
    { type: 'text/plain', value: mail.text ?? '' },
    { type: 'text/html', value: mail.html ?? '' },
  ].filter(({ value }) => value !== '')
  return {
    personalizations: [
      {
        to: to.map(party),
        ...(cc.length === 0 ? {} : { cc: cc.map(party) }),
        ...(bcc.length === 0 ? {} : { bcc: bcc.map(party) }),
        // Comes back with every event of the Event Webhook.
        custom_args: { sluice_id: mail.id },
      },
    ],
    from: party(mail.from),
    ...(mail.replyTo.length === 0 ? {} : { reply_to_list: mail.replyTo.map(party) }),
    subject: mail.subject,
    content: parts.length === 0 ? [{ type: 'text/plain', value: ' ' }] : parts,
    headers: { ...mail.headers, 'Message-ID': mail.messageId, 'X-Sluice-Id': mail.id },
    ...(mail.attachments === undefined
      ? {}
      : { attachments: mail.attachments.map((each) => attachment(each, mail.html !== undefined)) }),
  }
}

/** "attachments": type, filename and content_id may hold neither a semicolon nor a line break. */
function attachment(
  { filename, contentType, contentId, content: bytes }: OutgoingAttachment,
  hasHtml: boolean,
) {
  const isInline = hasHtml && contentId !== undefined
  return {
    content: new Base64Bytes(bytes),
    type: contentType.split(';')[0]?.trim(),
    filename: filename.replaceAll(';', '_'),
    disposition: isInline ? 'inline' : 'attachment',
    ...(isInline ? { content_id: contentId } : {}),
  }
}

function party({ address, name }: Address) {
  return { email: address, ...(name === undefined || name === '' ? {} : { name }) }
}

/** 202 has no body; 200 is the answer of the sandbox mode, which sends nothing. */
function readAnswer({ status, headers, body }: HttpAnswer): Accepted | ApiFault {
  const id = headers['x-message-id']
  if (status === 202) {
    const known = typeof id === 'string' && id !== '' ? { providerMessageId: safeText(id, []) } : {}
    return { kind: 'accepted', reply: '202 Accepted', ...known, refused: [] }
  }
  const [first] = readJson(Refused, body)?.errors ?? []
  if (first === undefined) return { status }
  const field = first.field ?? undefined
  const isRecipient = /^personalizations\.\d+\.(?:to|cc|bcc)\.\d+\.email$/.test(field ?? '')
  return { status, providerCode: isRecipient ? 'recipient' : field, text: first.message }
}
