import { AwsV4Signer } from 'aws4fetch'
import { z } from 'zod'
import type { Clock } from '../../database-clock.ts'
import { type CheckAnswer, type CheckResult, unreadable } from './api-check.ts'
import type { HttpAnswer, HttpRequest } from './client.ts'
import { Base64Bytes } from './json-body.ts'
import { type Accepted, jsonRequest, type MailApi, type Piece, readJson } from './mail-api.ts'
import { type ApiFault, type ApiRule, safeText } from './verdict.ts'

/** Amazon SES, API v2: docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendEmail.html */

export type SesSettings = {
  readonly baseUrl: URL
  readonly region: string
  readonly accessKeyId: string
  readonly secretAccessKey: string
  readonly sessionToken?: string
  readonly configurationSet?: string
  readonly clock: Clock
}

/** docs.aws.amazon.com/ses/latest/dg/quotas.html: 40 MB a message for API v2, its attachments in base64. */
const MAX_BYTES = 40_000_000
const PATH = '/v2/email/outbound-emails'
const ACCOUNT_PATH = '/v2/email/account'

/** "Errors" of API_SendEmail.html, then CommonErrors.html; older names of the same are still seen. */
const RULES: readonly ApiRule[] = [
  {
    providerCodes: ['TooManyRequestsException', 'ThrottlingException', 'Throttling', 'RequestThrottled'],
    // The daily quota has the same name as the rate; it is the only one that does not pass within seconds.
    text: /daily/i,
    verdict: { kind: 'unreachable', code: 'quota_exceeded' },
  },
  {
    providerCodes: ['TooManyRequestsException', 'ThrottlingException', 'Throttling', 'RequestThrottled'],
    verdict: { kind: 'unreachable', code: 'throttled' },
  },
  { providerCodes: ['LimitExceededException'], verdict: { kind: 'unreachable', code: 'throttled' } },
  {
    providerCodes: ['AccountSuspendedException', 'SendingPausedException', 'OptInRequired'],
    verdict: { kind: 'unreachable', code: 'account_paused' },
  },
  {
    providerCodes: ['MailFromDomainNotVerifiedException'],
    verdict: { kind: 'unreachable', code: 'sender_unverified' },
  },
  // The same name stands for bad content and for an identity that is not verified (or a recipient, in the sandbox).
  {
    providerCodes: ['MessageRejected'],
    text: /not verified/i,
    verdict: { kind: 'unreachable', code: 'sender_unverified' },
  },
  { providerCodes: ['MessageRejected'], verdict: { kind: 'refused', code: 'content_refused' } },
  { providerCodes: ['NotFoundException'], verdict: { kind: 'unreachable', code: 'provider_misconfigured' } },
  {
    providerCodes: [
      'AccessDenied',
      'AccessDeniedException',
      'ExpiredTokenException',
      'IncompleteSignature',
      'InvalidClientTokenId',
      'InvalidSignatureException',
      'MissingAuthenticationToken',
      'MissingAuthenticationTokenException',
      'NotAuthorized',
      'RequestExpired',
      'SignatureDoesNotMatch',
      'UnrecognizedClientException',
    ],
    verdict: { kind: 'unreachable', code: 'auth_failed' },
  },
]

const Sent = z.object({ MessageId: z.string().min(1) })
/** The message is `message` or `Message`, depending on the layer that refuses. */
const Refused = z.object({
  message: z.string().optional(),
  Message: z.string().optional(),
  __type: z.string().optional(),
})

export function sesApi(settings: SesSettings): MailApi {
  const { secretAccessKey, sessionToken } = settings
  return {
    maxBytes: MAX_BYTES,
    secrets: sessionToken === undefined ? [secretAccessKey] : [secretAccessKey, sessionToken],
    writesHeaders: false,
    rules: RULES,
    toRequest: (piece) => signed(settings, piece),
    readAnswer,
    check: {
      request: async () => ({
        path: ACCOUNT_PATH,
        headers: await signatureOf(settings, 'GET', ACCOUNT_PATH),
      }),
      read: readAccount,
    },
  }
}

const Account = z.object({ SendingEnabled: z.boolean(), ProductionAccessEnabled: z.boolean() })
/** What an identity without the right to ask hears, once its signature was found to be good. */
const MAY_NOT_ASK = ['AccessDeniedException', 'AccessDenied', 'NotAuthorized']

/** docs.aws.amazon.com/ses/latest/APIReference-V2/API_GetAccount.html */
function readAccount({ status, body, headers }: CheckAnswer): CheckResult {
  const account = status === 200 ? readJson(Account, body) : undefined
  if (account?.SendingEnabled === false)
    return { verdict: 'refused', words: 'sending is paused for this account' }
  if (account?.ProductionAccessEnabled === false) {
    return { verdict: 'unclear', words: 'the account is in the sandbox: it sends to verified addresses only' }
  }
  if (account !== undefined)
    return { verdict: 'usable', words: 'the credentials are accepted, and the account may send' }
  const fault = refusalOf(headers, body)
  if (MAY_NOT_ASK.includes(fault.name)) {
    return { verdict: 'unclear', words: 'the credentials are accepted, but may not ask (ses:GetAccount)' }
  }
  return [400, 401, 403].includes(status)
    ? { verdict: 'refused', words: `the credentials are not accepted (${fault.name || status})` }
    : unreadable(status)
}

/** SigV4 covers host, date, token and body; nothing else is added to the request afterwards that it should cover. */
async function signed(settings: SesSettings, piece: Piece): Promise<HttpRequest> {
  const plain = jsonRequest(PATH, {}, content(settings, piece))
  const signature = await signatureOf(settings, 'POST', PATH, plain)
  return { ...plain, headers: { ...plain.headers, ...signature } }
}

async function signatureOf(
  { baseUrl, region, accessKeyId, secretAccessKey, sessionToken, clock }: SesSettings,
  method: 'GET' | 'POST',
  path: string,
  plain?: HttpRequest,
): Promise<Record<string, string>> {
  const { headers } = await new AwsV4Signer({
    method,
    url: new URL(baseUrl.pathname.replace(/\/$/, '') + path, baseUrl).href,
    ...(plain === undefined ? {} : { headers: plain.headers, body: plain.body as Uint8Array<ArrayBuffer> }),
    accessKeyId,
    secretAccessKey,
    service: 'ses',
    // AWS refuses what was signed more than five minutes ago, or in the future.
    datetime: new Date(clock.now()).toISOString().replace(/[:-]|\.\d{3}/g, ''),
    region,
    ...(sessionToken === undefined ? {} : { sessionToken }),
  }).sign()
  return Object.fromEntries(headers)
}

/** Who gets a raw message is said by `Destination`; its own headers only show it. */
function content({ configurationSet }: SesSettings, { content: mail, addressing }: Piece) {
  const addresses = (list: Piece['addressing']['to']) => list.map(({ address }) => address)
  return {
    Content: { Raw: { Data: new Base64Bytes(mail.toBuffer()) } },
    Destination: {
      ToAddresses: addresses(addressing.to),
      CcAddresses: addresses(addressing.cc),
      BccAddresses: addresses(addressing.bcc),
    },
    ...(configurationSet === undefined ? {} : { ConfigurationSetName: configurationSet }),
  }
}

function readAnswer({ status, headers, body }: HttpAnswer): Accepted | ApiFault {
  if (status === 200) {
    const sent = readJson(Sent, body)
    if (sent === undefined) return { status }
    const id = safeText(sent.MessageId, [])
    return { kind: 'accepted', reply: `200 ${id}`, providerMessageId: id, refused: [] }
  }
  const { name, text } = refusalOf(headers, body)
  return { status, providerCode: name === '' ? undefined : name, text }
}

function refusalOf(headers: HttpAnswer['headers'], body: string | undefined) {
  const refused = readJson(Refused, body)
  const type = headers['x-amzn-errortype']
  // `Name:http://internal/…` in the header, `prefix#Name` in the body.
  const [name = ''] = (typeof type === 'string' ? type : (refused?.__type?.split('#').at(-1) ?? '')).split(
    ':',
  )
  return { name, text: refused?.message ?? refused?.Message }
}
