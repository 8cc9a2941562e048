import { createHash, createHmac, randomUUID, timingSafeEqual } from 'node:crypto'
import type { IncomingHttpHeaders } from 'node:http'

/**
 * What each provider's documentation demands of a request and answers to it. A request that is wrong is refused here as
 * it would be there.
 */

export const STAND_IN_KEY = 'key-0123456789abcdef'
export const STAND_IN_AWS = { id: 'AKIDEXAMPLE', secret: 'wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY' }
export const STAND_IN_REGION = 'eu-west-1'
export const STAND_IN_DOMAIN = 'mg.shop.test'

export type StandInProvider = 'ses' | 'sendgrid' | 'mailgun' | 'postmark' | 'resend'

export type Received = {
  readonly path: string
  readonly headers: IncomingHttpHeaders
  readonly body: Buffer
}
export type Answer = {
  readonly status: number
  readonly headers?: Readonly<Record<string, string>>
  /** Anything but a string or bytes is sent as JSON. */
  readonly body?: unknown
}

export const DOCUMENTED: Readonly<Record<StandInProvider, (received: Received) => Answer | Promise<Answer>>> =
  {
    ses,
    sendgrid,
    mailgun,
    postmark,
    resend,
  }

/* Amazon SES v2 */

/** docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendEmail.html, and the same page's errors. */
function ses(received: Received): Answer {
  const fault = (status: number, name: string, message: string): Answer => ({
    status,
    headers: { 'x-amzn-errortype': `${name}:http://internal.amazon.test/coral/` },
    body: { message },
  })
  if (received.path !== 'POST /v2/email/outbound-emails') {
    return fault(404, 'NotFoundException', 'no such operation')
  }
  const problem = signatureFault(received)
  if (problem !== undefined) return fault(403, 'InvalidSignatureException', problem)
  const json = jsonOf(received)
  const raw = Buffer.from(String(json?.Content?.Raw?.Data ?? ''), 'base64')
  const { ToAddresses = [], CcAddresses = [], BccAddresses = [] } = json?.Destination ?? {}
  const recipients = [...ToAddresses, ...CcAddresses, ...BccAddresses]
  if (recipients.length === 0 || recipients.length > 50) {
    return fault(400, 'BadRequestException', 'Recipient count must be from 1 to 50.')
  }
  if (!/^From: /m.test(raw.toString('latin1')) || raw.length > 40_000_000) {
    return fault(400, 'BadRequestException', "Missing required header 'From'.")
  }
  return { status: 200, body: { MessageId: `0102${randomUUID()}-000000` } }
}

export type AwsRequest = {
  readonly method: string
  readonly path: string
  readonly headers: Readonly<Record<string, string>>
  readonly signedHeaders: readonly string[]
  readonly body: Buffer
  readonly secret: string
  /** `20150830/us-east-1/service/aws4_request` */
  readonly scope: string
  readonly date: string
}

/** Signature version 4, from docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html */
export function awsSignature(request: AwsRequest): string {
  const sha256 = (data: string | Buffer) => createHash('sha256').update(data).digest('hex')
  const hmac = (key: string | Buffer, data: string) => createHmac('sha256', key).update(data).digest()
  const headers = request.signedHeaders.map((name) => `${name}:${(request.headers[name] ?? '').trim()}\n`)
  const canonical = [
    request.method,
    request.path,
    '',
    headers.join(''),
    request.signedHeaders.join(';'),
    sha256(request.body),
  ].join('\n')
  const toSign = ['AWS4-HMAC-SHA256', request.date, request.scope, sha256(canonical)].join('\n')
  const key = request.scope.split('/').reduce<string | Buffer>(hmac, `AWS4${request.secret}`)
  return hmac(key, toSign).toString('hex')
}

function signatureFault({ path, headers, body }: Received): string | undefined {
  const [, id, scope = '', signed = '', signature = ''] =
    /^AWS4-HMAC-SHA256 Credential=([^/]+)\/([^,]+), SignedHeaders=([^,]+), Signature=([0-9a-f]{64})$/.exec(
      headers.authorization ?? '',
    ) ?? []
  const date = String(headers['x-amz-date'])
  if (id !== STAND_IN_AWS.id) return 'The security token included in the request is invalid.'
  if (scope !== `${date.slice(0, 8)}/${STAND_IN_REGION}/ses/aws4_request`) return `wrong scope ${scope}`
  const [, year, month, day, hour, minute, second] =
    /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/.exec(date) ?? []
  const age = Date.now() - Date.parse(`${year}-${month}-${day}T${hour}:${minute}:${second}Z`)
  if (!(Math.abs(age) < 300_000)) return `Signature expired: ${date}`
  const signedHeaders = signed.split(';')
  const isPartial = !['host', 'x-amz-date'].every((name) => signedHeaders.includes(name))
  if (isPartial || (headers['x-amz-security-token'] && !signedHeaders.includes('x-amz-security-token'))) {
    return 'a header that must be signed is not'
  }
  const [method = '', plainPath = ''] = path.split(' ')
  const expected = awsSignature({
    method,
    path: plainPath,
    headers: Object.fromEntries(Object.entries(headers).map(([name, value]) => [name, String(value)])),
    signedHeaders,
    body,
    secret: STAND_IN_AWS.secret,
    scope,
    date,
  })
  if (timingSafeEqual(Buffer.from(expected), Buffer.from(signature))) return undefined
  return 'The request signature we calculated does not match the signature you provided.'
}

/* SendGrid */

const SENDGRID_RESERVED =
  /^(?:x-sg-id|x-sg-eid|received|dkim-signature|content-type|content-transfer-encoding|to|from|subject|reply-to|cc|bcc)$/i

/** www.twilio.com/docs/sendgrid/api-reference/mail-send: the body, its limits and its errors. */
function sendgrid(received: Received): Answer {
  const fault = (status: number, field: string | null, message: string): Answer => ({
    status,
    body: { errors: [{ field, message, help: null }] },
  })
  if (received.path !== 'POST /v3/mail/send') return fault(404, null, 'not found')
  if (received.headers.authorization !== `Bearer ${STAND_IN_KEY}`) {
    return fault(401, null, 'The provided authorization grant is invalid, expired, or revoked')
  }
  const json = jsonOf(received)
  if (json === undefined) return fault(400, null, 'Bad Request')
  const seen = new Set<string>()
  for (const [index, { to = [], cc = [], bcc = [] }] of (json.personalizations ?? []).entries()) {
    if (to.length === 0) {
      return fault(
        400,
        `personalizations.${index}.to`,
        'The to array is required for all personalization objects',
      )
    }
    for (const [list, parties] of Object.entries({ to, cc, bcc })) {
      for (const [at, { email }] of (parties as { email: string }[]).entries()) {
        const field = `personalizations.${index}.${list}.${at}.email`
        if (!/^[^@\s<>]+@[^@\s<>]+$/.test(email))
          return fault(400, field, 'Does not contain a valid address.')
        if (seen.has(email)) {
          return fault(
            400,
            'personalizations',
            'Each email address in the personalization block should be unique',
          )
        }
        seen.add(email)
      }
    }
  }
  if (seen.size === 0 || seen.size > 1_000) return fault(400, 'personalizations', 'required')
  if (typeof json.subject !== 'string' || json.subject === '')
    return fault(400, 'subject', 'The subject is required.')
  const types: string[] = (json.content ?? []).map(({ type }: { type: string }) => type)
  const isEmpty = (json.content ?? []).some(({ value }: { value: string }) => value === '')
  if (types.length === 0 || isEmpty || (types.length > 1 && types[0] !== 'text/plain')) {
    return fault(400, 'content', 'text/plain must come first, and every part must have a value')
  }
  for (const [index, { content, type, filename, disposition, content_id: id }] of (
    json.attachments ?? []
  ).entries()) {
    const names = [type, filename, id ?? '']
    if (
      !isBase64(content) ||
      !filename ||
      names.some((name) => typeof name !== 'string' || /[;\r\n]/.test(name))
    ) {
      return fault(
        400,
        `attachments.${index}`,
        'An attachment needs base64 content, and no semicolon in its names.',
      )
    }
    if (disposition === 'inline' && !id) {
      return fault(400, `attachments.${index}.content_id`, 'content_id is required for inline attachments')
    }
  }
  if (received.body.length > 30_000_000) return { status: 413, body: '' }
  for (const name of Object.keys(json.headers ?? {})) {
    if (SENDGRID_RESERVED.test(name)) return fault(400, `headers.${name}`, 'The header is reserved.')
  }
  if (json.from?.email !== 'shop@shop.test') {
    return fault(403, 'from', 'The from address does not match a verified Sender Identity.')
  }
  return { status: 202, headers: { 'x-message-id': randomUUID().replaceAll('-', '') } }
}

/* Mailgun */

/** documentation.mailgun.com: "Send an email in MIME format", and "API Response Codes". */
async function mailgun({ path, headers, body }: Received): Promise<Answer> {
  const authorization = `Basic ${Buffer.from(`api:${STAND_IN_KEY}`).toString('base64')}`
  if (headers.authorization !== authorization) return { status: 401, body: 'Forbidden' }
  if (path !== `POST /v3/${STAND_IN_DOMAIN}/messages.mime`) {
    return { status: 404, body: { message: 'Domain not found: nowhere.test' } }
  }
  if (body.length > 26_000_000) return { status: 413, body: { message: 'Request Entity Too Large' } }
  const form = await formOf({ path, headers, body })
  const to = form.getAll('to')
  const message = form.get('message')
  if (to.length === 0 || to.some((address) => !/^[^@\s,]+@[^@\s,]+$/.test(String(address)))) {
    return {
      status: 400,
      body: { message: "'to' parameter is not a valid address. please check documentation" },
    }
  }
  if (message === null || typeof message === 'string') {
    return { status: 400, body: { message: "Need a 'message' file" } }
  }
  const id =
    /^Message-ID: (<.*>)\r$/m.exec(await message.text())?.[1] ?? `<${randomUUID()}@${STAND_IN_DOMAIN}>`
  return { status: 200, body: { id, message: 'Queued. Thank you.' } }
}

export function formOf({ headers, body }: Received): Promise<FormData> {
  const type = { 'content-type': headers['content-type'] ?? '' }
  return new Response(new Uint8Array(body), { headers: type }).formData()
}

/* Postmark */

/** postmarkapp.com/developer/api/email-api, and "API error codes" of …/api/overview. */
function postmark(received: Received): Answer {
  const fault = (status: number, ErrorCode: number, Message: string): Answer => ({
    status,
    body: { ErrorCode, Message },
  })
  if (received.headers['x-postmark-server-token'] !== STAND_IN_KEY) {
    return fault(
      401,
      10,
      'The Server Token you provided in the X-Postmark-Server-Token request header was invalid.',
    )
  }
  if (received.headers['content-type'] !== 'application/json') return fault(422, 409, 'JSON required')
  const json = jsonOf(received)
  if (json === undefined) return fault(422, 402, 'Invalid JSON')
  if (received.path === 'POST /email') {
    const result = postmarkResult(json)
    return { status: result.ErrorCode === 0 ? 200 : 422, body: result }
  }
  if (received.path !== 'POST /email/batch') return { status: 404, body: '' }
  if (!Array.isArray(json)) return fault(422, 403, 'Incompatible JSON')
  if (json.length > 500) return fault(422, 410, 'Too many batch messages')
  if (received.body.length > 50_000_000) return { status: 413, body: 'Payload Too Large' }
  return { status: 200, body: json.map(postmarkResult) }
}

// biome-ignore lint/suspicious/noExplicitAny: the stand-in reads whatever it was sent.
type AnyJson = any

function postmarkResult(message: AnyJson): { ErrorCode: number; Message: string; MessageID?: string } {
  const recipients = [message.To, message.Cc, message.Bcc].filter(Boolean).join(', ').toLowerCase()
  const addresses: string[] = recipients.match(/[^\s<>,"]+@[^\s<>,"]+/g) ?? []
  if (!message.To || addresses.length > 50) return { ErrorCode: 300, Message: "Invalid 'To' address: ''." }
  if (!message.HtmlBody && !message.TextBody) {
    return { ErrorCode: 300, Message: 'Provide either email TextBody or HtmlBody or both.' }
  }
  if (!/@shop\.test>?$/.test(message.From)) {
    return {
      ErrorCode: 400,
      Message: `The 'From' address you supplied (${message.From}) is not a Sender Signature.`,
    }
  }
  if (message.MessageStream === 'nowhere') {
    return { ErrorCode: 1235, Message: "The stream provided: 'nowhere' does not exist on this server." }
  }
  const attachments: AnyJson[] = message.Attachments ?? []
  for (const { Name, Content, ContentType, ContentID } of attachments) {
    if (!Name || !ContentType || !isBase64(Content) || !/^cid:[^\s<>]+$/.test(ContentID ?? 'cid:x')) {
      return { ErrorCode: 300, Message: `Invalid attachment '${Name}'.` }
    }
  }
  if (attachments.reduce((sum, { Content }) => sum + Content.length, 0) > 10_000_000) {
    return { ErrorCode: 300, Message: 'The message exceeds 10 MB.' }
  }
  const inactive = addresses.filter((address) => address.startsWith('inactive'))
  if (inactive.length > 0 && inactive.length === addresses.length) {
    return {
      ErrorCode: 406,
      Message: `You tried to send to recipient(s) that have been marked as inactive. Found inactive addresses: ${inactive.join(', ')}. Inactive recipients are ones that have generated a hard bounce, a spam complaint, or a manual suppression. `,
    }
  }
  const note =
    inactive.length === 0
      ? 'OK'
      : `Message OK, but will not deliver to these inactive addresses: ${inactive.join(', ')}.`
  return { ErrorCode: 0, Message: note, MessageID: randomUUID() }
}

/* Resend */

/** resend.com/docs/api-reference: "Send Email", "Send Batch Emails", "Errors", and the header `x-batch-validation`. */
function resend(received: Received): Answer {
  const { headers, path } = received
  const limits = { 'ratelimit-limit': '5', 'ratelimit-remaining': '4', 'ratelimit-reset': '1' }
  const fault = (statusCode: number, name: string, message: string): Answer => ({
    status: statusCode,
    headers: limits,
    body: { statusCode, name, message },
  })
  if (headers.authorization === undefined) return fault(401, 'missing_api_key', 'Missing API key')
  if (headers.authorization !== `Bearer ${STAND_IN_KEY}`)
    return fault(403, 'invalid_api_key', 'API key is invalid')
  const key = headers['idempotency-key']
  if (typeof key !== 'string' || key.length > 256) {
    return fault(400, 'invalid_idempotency_key', 'The key must be between 1-256 chars.')
  }
  const json = jsonOf(received)
  if (path === 'POST /emails') {
    const problem = resendProblem(json)
    return problem ? fault(...problem) : { status: 200, headers: limits, body: { id: randomUUID() } }
  }
  if (path !== 'POST /emails/batch') return fault(404, 'not_found', 'The requested endpoint does not exist.')
  if (!Array.isArray(json) || json.length > 100)
    return fault(422, 'validation_error', 'The batch is too large.')
  if (json.some(({ attachments }) => attachments !== undefined)) {
    return fault(422, 'validation_error', 'The `attachments` field is not supported in batch emails.')
  }
  const problems = json.map(resendProblem)
  const first = problems.find((problem) => problem !== undefined)
  if (first !== undefined && headers['x-batch-validation'] !== 'permissive') return fault(...first)
  const data = problems.filter((problem) => problem === undefined).map(() => ({ id: randomUUID() }))
  const errors = problems.flatMap((problem, index) => (problem ? [{ index, message: problem[2] }] : []))
  return { status: 200, headers: limits, body: { data, errors } }
}

function resendProblem(email: AnyJson): [number, string, string] | undefined {
  const all: string[] = [...(email?.to ?? []), ...(email?.cc ?? []), ...(email?.bcc ?? [])]
  if (!email?.to?.length) return [422, 'missing_required_field', 'Missing `to` field.']
  if (all.some((address) => !/^[^<>]+@[^<>\s]+$|<[^<>\s]+@[^<>\s]+>$/.test(address))) {
    return [422, 'validation_error', 'Invalid `to` field.']
  }
  if (typeof email.subject !== 'string' || email.subject.length === 0) {
    return [422, 'missing_required_field', 'Missing `subject` field.']
  }
  if (email.html === undefined && email.text === undefined) {
    return [422, 'missing_required_field', 'Missing `html` or `text` field.']
  }
  for (const { filename, content } of email.attachments ?? []) {
    if (!filename || !isBase64(content)) return [422, 'invalid_attachment', 'Attachment must have content.']
  }
  if (!/@shop\.test>?$/.test(email.from)) {
    return [
      403,
      'validation_error',
      'The other.test domain is not verified. Please, add and verify your domain.',
    ]
  }
  return undefined
}

function isBase64(content: unknown): content is string {
  return typeof content === 'string' && /^[\w+/]*={0,2}$/.test(content) && content.length % 4 === 0
}

export function jsonOf({ body }: Received): AnyJson {
  try {
    return JSON.parse(body.toString('utf8'))
  } catch {
    return undefined
  }
}
