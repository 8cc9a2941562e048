import { gzipSync } from 'node:zlib'
import { STAND_IN_AWS, STAND_IN_KEY, type StandInProvider } from '../../../test/support/provider-rules.ts'
import type { ApiMisdeed, MisdeedRequest } from './hostile-api.ts'

/** What the servers of providers, and what stands before them, do to requests, and what each means for the mail. */

export type JudgedMisdeed = ApiMisdeed & {
  /** The word of the timeline for it; undefined: none, the mail is sent. */
  readonly word: string | undefined
  /** It comes again no sooner than this. */
  readonly waitsS?: number
  /** It takes until our timeouts to be over: 30 s and more. */
  readonly isSlow?: true
  /** The whole provider is asked to wait, or waits by itself. */
  readonly pauses?: true
}

const THROTTLED = 'unreachable throttled'
/** The word of an answer that is none. */
export const UNREADABLE = 'unknown protocol_error'
/** The word of a request that nobody answers. */
export const LOST = 'unknown connection_lost'
/** Long enough to be seen, short enough to be waited for. */
const PAUSE_S = 1

const GZIPPED_NOTHING = gzipSync(Buffer.alloc(20_000_000))

function status(
  code: number,
  word: string,
  more: Partial<Omit<JudgedMisdeed, 'answer'>> & {
    readonly headers?: Readonly<Record<string, string>>
    readonly body?: unknown
  } = {},
): JudgedMisdeed {
  const { headers = {}, body = '', ...rest } = more
  return { does: `answers ${code}`, word, answer: () => ({ status: code, headers, body }), ...rest }
}

function throttles(named: string | undefined, waitsS: number): JudgedMisdeed {
  return status(429, THROTTLED, {
    does: `answers 429 with ${named === undefined ? 'no Retry-After' : `Retry-After: ${named}`}`,
    ...(named === undefined ? {} : { headers: { 'retry-after': named } }),
    waitsS,
    pauses: true,
  })
}

/** A success by its status, and by nothing else. */
function unreadable(does: string, body: unknown): JudgedMisdeed {
  return { does, word: UNREADABLE, keeps: true, answer: () => ({ status: 200, body }) }
}

/** Bytes on the wire, whatever a server library thinks of them. */
function raw(
  does: string,
  word: string | undefined,
  act: (request: MisdeedRequest) => void,
  more: Partial<JudgedMisdeed> = {},
): JudgedMisdeed {
  const answer = (request: MisdeedRequest) => {
    act(request)
    return undefined
  }
  return { does, word, keeps: true, answer, ...more }
}

const say = ({ response }: MisdeedRequest, text: string) => response.socket?.write(text, 'latin1')
const textOf = ({ documented }: MisdeedRequest) =>
  documented.body === undefined ? '' : JSON.stringify(documented.body)
const headOf = ({ documented }: MisdeedRequest, length: number | undefined) =>
  [
    `HTTP/1.1 ${documented.status} Ok`,
    ...Object.entries(documented.headers ?? {}).map(([name, value]) => `${name}: ${value}`),
    ...(length === undefined ? [] : [`content-length: ${length}`]),
    '\r\n',
  ].join('\r\n')

function untilClosed({ response }: MisdeedRequest, everyMs: number, act: () => void): void {
  const timer = setInterval(act, everyMs)
  response.socket?.once('close', () => clearInterval(timer))
}

const STATUSES: readonly JudgedMisdeed[] = [
  throttles(undefined, PAUSE_S),
  throttles('1', 1),
  throttles('soon', PAUSE_S),
  throttles('-5', PAUSE_S),
  {
    ...throttles('(an HTTP date)', 1),
    answer: () => ({
      status: 429,
      headers: { 'retry-after': new Date(Date.now() + 3_000).toUTCString() },
      body: '',
    }),
  },
  status(503, 'unreachable service_unavailable', {
    does: 'answers 503 with Retry-After: 1',
    headers: { 'retry-after': '1' },
    waitsS: 1,
    pauses: true,
  }),
  status(500, 'unreachable service_unavailable'),
  status(502, 'unreachable service_unavailable', { body: '<html>Bad gateway</html>' }),
  status(503, 'unreachable service_unavailable'),
  status(504, 'unknown timed_out', { keeps: true }),
  status(400, 'deferred provider_deferred', { does: 'answers 400 without its own words', body: '<html>?' }),
  status(401, 'unreachable auth_failed'),
  status(402, 'unreachable account_paused'),
  status(403, 'unreachable auth_failed'),
  status(404, 'unreachable provider_misconfigured', { body: 'nothing here' }),
  status(408, 'unreachable timed_out'),
  status(413, 'dead message_too_large', { isRefusal: true }),
  status(418, 'deferred provider_deferred'),
  status(300, 'unreachable protocol_error'),
  status(204, UNREADABLE, { keeps: true }),
  status(599, 'unreachable service_unavailable'),
]

const ANSWERS: readonly JudgedMisdeed[] = [
  unreadable('answers 200 with half of some JSON', '{"id":'),
  unreadable('answers 200 with nothing', ''),
  unreadable('answers 200 with HTML', '<!doctype html><title>Welcome</title>'),
  unreadable('answers 200 with other JSON', { ok: true }),
  unreadable('answers 200 with null', null),
  unreadable('answers 200 with a list of nothing', []),
  unreadable('answers 200 with ids that are none', {
    id: 7,
    MessageId: [],
    MessageID: {},
    data: [{ id: 7 }],
  }),
  unreadable('answers 200 in bytes that are not UTF-8', Buffer.from('{"id":"\xff\xfe\x00', 'latin1')),
  {
    ...unreadable('answers 200 with a gzip bomb', undefined),
    answer: () => ({ status: 200, headers: { 'content-encoding': 'gzip' }, body: GZIPPED_NOTHING }),
  },
]

const WIRE: readonly JudgedMisdeed[] = [
  raw('hangs up instead of answering', LOST, ({ response }) => response.socket?.end()),
  raw('resets instead of answering', LOST, ({ response }) => response.socket?.resetAndDestroy()),
  raw('hangs up in the headers', LOST, (request) => {
    say(request, 'HTTP/1.1 200 Ok\r\ncontent-le')
    request.response.socket?.end()
  }),
  raw('hangs up in the body', UNREADABLE, (request) => {
    say(request, 'HTTP/1.1 200 Ok\r\ncontent-length: 1000\r\n\r\n{"id":"')
    request.response.socket?.end()
  }),
  raw('speaks another protocol', UNREADABLE, (request) => say(request, '220 smtp.shop.test ESMTP\r\n')),
  raw('answers with garbage', UNREADABLE, (request) => say(request, '\x00\xff\x16\x03\x01 what?\r\n\r\n')),
  raw('answers with huge headers', UNREADABLE, (request) =>
    say(request, `HTTP/1.1 200 Ok\r\nx-big: ${'x'.repeat(100_000)}\r\n\r\n`),
  ),
  raw('answers with endless headers', UNREADABLE, (request) =>
    untilClosed(request, 5, () => say(request, `x-more: ${'x'.repeat(1_000)}\r\n`)),
  ),
  raw('switches protocols', UNREADABLE, (request) =>
    say(request, 'HTTP/1.1 101 Switching Protocols\r\nupgrade: mail\r\nconnection: upgrade\r\n\r\n'),
  ),
  raw('names two lengths', UNREADABLE, (request) =>
    say(request, 'HTTP/1.1 200 Ok\r\ncontent-length: 2\r\ncontent-length: 4\r\n\r\n{}{}'),
  ),
  raw('sends chunks that are none', UNREADABLE, (request) =>
    say(request, 'HTTP/1.1 200 Ok\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{"id":"x"}\r\n'),
  ),
  raw('sends a body without end', UNREADABLE, (request) => {
    say(request, 'HTTP/1.1 200 Ok\r\ntransfer-encoding: chunked\r\n\r\n')
    untilClosed(request, 1, () => say(request, `4000\r\n${'x'.repeat(0x4000)}\r\n`))
  }),
  raw('answers byte by byte', undefined, (request) => {
    const text = textOf(request)
    const bytes = [...(headOf(request, Buffer.byteLength(text)) + text)]
    untilClosed(request, 1, () => {
      const byte = bytes.shift()
      if (byte === undefined) request.response.socket?.end()
      else say(request, byte)
    })
  }),
  raw('says 100 and 103 first', undefined, (request) => {
    const text = textOf(request)
    say(request, 'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n')
    say(request, headOf(request, Buffer.byteLength(text)) + text)
    request.response.socket?.end()
  }),
  raw('hangs up after its answer', undefined, (request) => {
    const text = textOf(request)
    say(request, headOf(request, Buffer.byteLength(text)) + text)
    request.response.socket?.end()
  }),
  raw('answers twice', undefined, (request) => {
    const text = textOf(request)
    const whole = headOf(request, Buffer.byteLength(text)) + text
    say(request, whole + whole)
    request.response.socket?.end()
  }),
  raw('hangs', 'unknown timed_out', () => undefined, { isSlow: true }),
  raw(
    'sends its headers for ever',
    'unknown timed_out',
    (request) => {
      say(request, 'HTTP/1.1 200 Ok\r\nx-slow: ')
      untilClosed(request, 1_000, () => say(request, 'x'))
    },
    { isSlow: true },
  ),
  raw(
    'sends its body for ever',
    UNREADABLE,
    (request) => {
      say(request, 'HTTP/1.1 200 Ok\r\ncontent-length: 1000\r\n\r\n')
      untilClosed(request, 1_000, () => say(request, ' '))
    },
    { isSlow: true },
  ),
]

/** Also to another host, where the credentials would go with it. */
function redirects(does: string, location: string): JudgedMisdeed {
  const headers = { location, 'content-length': '0' }
  return { does, word: 'unreachable protocol_error', answer: () => ({ status: 307, headers, body: '' }) }
}

const BASIC = Buffer.from(`api:${STAND_IN_KEY}`).toString('base64')

/** What must never be read anywhere. */
export const SECRETS: readonly string[] = [STAND_IN_KEY, BASIC, STAND_IN_AWS.secret]

/** The credentials of a request, as some servers repeat them. */
function quoting({ received }: MisdeedRequest): string {
  const { authorization = '', 'x-postmark-server-token': token = '' } = received.headers
  const isSigned = authorization.startsWith('AWS4')
  return `not with ${authorization} ${token} ${isSigned ? STAND_IN_AWS.secret : STAND_IN_KEY}`
}

function own(
  does: string,
  word: string,
  code: number,
  body: (text: string) => unknown,
  headers: Readonly<Record<string, string>> = {},
): JudgedMisdeed {
  const answer = (request: MisdeedRequest) => ({ status: code, headers, body: body(quoting(request)) })
  return { does: `says ${does}`, word, answer, ...(word.startsWith('dead') ? { isRefusal: true } : {}) }
}

const aws = (name: string) => ({ 'x-amzn-errortype': `${name}:http://internal.amazon.test/` })

/** In each provider's own words, which quote the credentials that they were sent. */
const OWN: Readonly<Record<StandInProvider, readonly JudgedMisdeed[]>> = {
  ses: [
    own('MessageRejected', 'dead content_refused', 400, (message) => ({ message }), aws('MessageRejected')),
    own(
      'AccountSuspended',
      'unreachable account_paused',
      403,
      (message) => ({ message }),
      aws('AccountSuspendedException'),
    ),
    own(
      'SignatureDoesNotMatch',
      'unreachable auth_failed',
      403,
      (message) => ({ message }),
      aws('SignatureDoesNotMatch'),
    ),
    own('its limit', 'unreachable throttled', 400, (message) => ({ message }), aws('LimitExceededException')),
  ],
  sendgrid: [
    own('bad from', 'dead sender_refused', 400, (message) => ({ errors: [{ message, field: 'from' }] })),
    own('bad recipient', 'dead bad_recipient', 400, (message) => ({
      errors: [{ message, field: 'personalizations.0.to.0.email' }],
    })),
    own('wrong key', 'unreachable auth_failed', 401, (message) => ({ errors: [{ message, field: null }] })),
    own('credits exceeded', 'unreachable quota_exceeded', 401, (text) => ({
      errors: [{ message: `credits exceeded ${text}` }],
    })),
  ],
  mailgun: [
    own('420', 'unreachable throttled', 420, (message) => ({ message })),
    own('disabled', 'unreachable account_paused', 403, (text) => ({ message: `disabled ${text}` })),
    own('not a valid address', 'dead bad_recipient', 400, (text) => ({
      message: `'to' parameter is not a valid address ${text}`,
    })),
    own('bad request', 'dead request_refused', 400, (message) => ({ message })),
  ],
  postmark: [
    own('300', 'dead request_refused', 422, (Message) => ({ ErrorCode: 300, Message })),
    own('405', 'unreachable quota_exceeded', 422, (Message) => ({ ErrorCode: 405, Message })),
    own('406', 'dead recipient_suppressed', 422, (Message) => ({ ErrorCode: 406, Message })),
    own('10', 'unreachable auth_failed', 401, (Message) => ({ ErrorCode: 10, Message })),
  ],
  resend: [
    own('validation_error', 'dead request_refused', 422, (message) => ({
      name: 'validation_error',
      message,
    })),
    own('daily_quota_exceeded', 'unreachable quota_exceeded', 429, (message) => ({
      name: 'daily_quota_exceeded',
      message,
    })),
    own('concurrent_idempotent_requests', 'deferred request_in_progress', 409, (message) => ({
      name: 'concurrent_idempotent_requests',
      message,
    })),
    own('invalid_api_key', 'unreachable auth_failed', 403, (message) => ({
      name: 'invalid_api_key',
      message,
    })),
  ],
}

/** The answer to a mail that was taken repeats the credentials as well. */
const QUOTES: Readonly<Record<StandInProvider, (text: string) => Answered>> = {
  ses: (text) => ({ status: 200, body: { MessageId: text } }),
  sendgrid: (text) => ({ status: 202, headers: { 'x-message-id': text }, body: '' }),
  mailgun: (text) => ({ status: 200, body: { id: `<${text}>`, message: text } }),
  postmark: (text) => ({ status: 200, body: { ErrorCode: 0, Message: text, MessageID: text } }),
  resend: (text) => ({ status: 200, body: { id: text } }),
}
type Answered = NonNullable<ReturnType<ApiMisdeed['answer']>>

/** Of a batch: fewer results than messages, more of them, and faults at places that it does not have. */
const BATCHES: Readonly<Partial<Record<StandInProvider, readonly unknown[]>>> = {
  postmark: [
    [{ ErrorCode: 0, Message: 'OK', MessageID: 'one' }],
    Array.from({ length: 600 }, () => ({ ErrorCode: 0, Message: 'OK', MessageID: 'many' })),
  ],
  resend: [
    { data: [{ id: 'one' }] },
    { data: Array.from({ length: 200 }, () => ({ id: 'many' })), errors: [{ index: 999, message: 'no' }] },
  ],
}

/** Every misdeed of one provider, by place. */
export function misdeedsOf(
  provider: StandInProvider,
  options: { readonly elsewhere: string; readonly isPatient: boolean; readonly share: Share },
): readonly JudgedMisdeed[] {
  const quotes: JudgedMisdeed = {
    does: 'repeats the credentials in its acceptance',
    word: undefined,
    keeps: true,
    answer: (request) => (request.isBatch ? request.documented : QUOTES[provider](quoting(request))),
  }
  const batches = (BATCHES[provider] ?? []).map(
    (body, index): JudgedMisdeed => ({
      ...unreadable(`answers a batch with ${index === 0 ? 'too few' : 'too many'} results`, body),
    }),
  )
  const { elsewhere, isPatient, share } = options
  const anyones = [
    ...STATUSES,
    ...ANSWERS,
    ...WIRE,
    redirects('redirects', '/elsewhere'),
    redirects('redirects to another host', elsewhere),
  ]
  return [
    ...anyones.filter(
      ({ isSlow }, index) => index % share.of === share.number && (isPatient || isSlow === undefined),
    ),
    quotes,
    ...OWN[provider],
    ...batches,
  ]
}

/** Which of the misdeeds that any provider may do are done by this one. */
export type Share = { readonly number: number; readonly of: number }

/** So long is nobody waited for: after an hour the provider is asked again. */
export const ASKS_FOR_YEARS: JudgedMisdeed = throttles('99999999', PAUSE_S)
