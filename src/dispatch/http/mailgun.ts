import { z } from 'zod'
import type { MailContent } from '../mime/mail-content.ts'
import { type CheckAnswer, type CheckResult, unreadable } from './api-check.ts'
import type { HttpAnswer, HttpRequest } from './client.ts'
import { type Accepted, type MailApi, type Piece, readJson } from './mail-api.ts'
import { addressesOf } from './recipients.ts'
import { type ApiFault, type ApiRule, safeText } from './verdict.ts'

/** Mailgun: documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/messages (in MIME format) */

export type MailgunSettings = { readonly apiKey: string; readonly domain: string }

/** "Sending messages": 25 MB for a message in all. */
const MAX_BYTES = 25_000_000

/** documentation.mailgun.com/docs/mailgun/quickstart-guide/responses. Mailgun has no error names. */
const RULES: readonly ApiRule[] = [
  // Older accounts get 420 instead of 429.
  { statuses: [420], verdict: { kind: 'unreachable', code: 'throttled' } },
  {
    statuses: [400, 401, 403],
    text: /unverified|sandbox/i,
    verdict: { kind: 'unreachable', code: 'sender_unverified' },
  },
  {
    statuses: [400, 401, 403],
    text: /not allowed to send|disabled|probation/i,
    verdict: { kind: 'unreachable', code: 'account_paused' },
  },
  {
    statuses: [400],
    text: /^'?to'? parameter is not a valid address/i,
    verdict: { kind: 'refused', code: 'bad_recipient' },
  },
]

const Sent = z.object({ id: z.string().min(1), message: z.string().optional() })
const Refused = z.object({ message: z.string() })

export function mailgunApi({ apiKey, domain }: MailgunSettings): MailApi {
  const basic = Buffer.from(`api:${apiKey}`).toString('base64')
  const authorization = `Basic ${basic}`
  return {
    maxBytes: MAX_BYTES,
    secrets: [apiKey, basic],
    writesHeaders: false,
    rules: RULES,
    toRequest: (piece) => form(`/v3/${domain}/messages.mime`, authorization, piece),
    readAnswer,
    check: {
      request: () => ({ path: `/v3/domains/${domain}`, headers: { authorization } }),
      read: readDomain,
    },
  }
}

const Domain = z.object({ domain: z.object({ state: z.string() }) })

/**
 * …/api-reference/send/mailgun/domains. A domain sending key may do nothing but send (…/authentication), so a refusal
 * does not tell it from a wrong one.
 */
function readDomain({ status, body }: CheckAnswer): CheckResult {
  if (status === 404)
    return { verdict: 'refused', words: 'it does not know the domain of the options, in this region' }
  if (status === 401 || status === 403) {
    return { verdict: 'unclear', words: 'it refused to be asked: the API key is wrong, or may only send' }
  }
  const read = status === 200 ? readJson(Domain, body) : undefined
  if (read === undefined) return unreadable(status)
  return read.domain.state === 'active'
    ? { verdict: 'usable', words: 'the API key is accepted, and the domain is active' }
    : { verdict: 'refused', words: 'the API key is accepted, but the domain is not active' }
}

/** RFC 7578. `to` is the envelope: Bcc recipients stand there too, and only there. */
function form(path: string, authorization: string, { mail, content, addressing }: Piece): HttpRequest {
  // A message cannot contain a line with its own id in this form: the id is only in headers and the MIME boundary.
  const boundary = `sluice-form-${mail.id}`
  const field = (name: string, value: string) =>
    `--${boundary}\r\nContent-Disposition: form-data; name="${name}"\r\n\r\n${value}\r\n`
  const fields = [
    ...addressesOf(addressing).map((address) => field('to', address)),
    // Comes back with every event as a user variable.
    field('v:sluice_id', mail.id),
    `--${boundary}\r\nContent-Disposition: form-data; name="message"; filename="message.eml"\r\n` +
      'Content-Type: message/rfc822\r\n\r\n',
  ]
  return {
    path,
    headers: {
      authorization,
      accept: 'application/json',
      'content-type': `multipart/form-data; boundary=${boundary}`,
    },
    body: between(fields.join(''), content, `\r\n--${boundary}--\r\n`),
  }
}

/** In one buffer, into which the message is written only once: it may be 25 MB. */
function between(before: string, content: MailContent, after: string): Buffer {
  const start = Buffer.byteLength(before)
  const body = Buffer.allocUnsafe(start + content.size + Buffer.byteLength(after))
  body.write(before)
  body.write(after, content.writeTo(body, start))
  return body
}

function readAnswer({ status, body }: HttpAnswer): Accepted | ApiFault {
  if (status === 200) {
    const sent = readJson(Sent, body)
    if (sent === undefined) return { status }
    // In events the id has no angle brackets.
    const id = safeText(sent.id, []).replace(/^<(.*)>$/, '$1')
    return {
      kind: 'accepted',
      reply: `200 ${safeText(sent.message ?? '', [])}`.trim(),
      providerMessageId: id,
      refused: [],
    }
  }
  return { status, text: readJson(Refused, body)?.message }
}
