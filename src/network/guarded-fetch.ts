import { lookup as systemLookup } from 'node:dns'
import {
  type ClientRequest,
  request as httpRequest,
  type IncomingHttpHeaders,
  type IncomingMessage,
} from 'node:http'
import { request as httpsRequest } from 'node:https'
import { isIP, type LookupFunction } from 'node:net'
import { portOf } from './listed-hosts.ts'
import { reachOf } from './public-addresses.ts'

/**
 * Requests to URLs that somebody else chose, guarded so that they reach the internet and nothing of our own: the name
 * is resolved once, every address is checked, and the connection goes to the very addresses that were checked, so
 * that a name which changes its answer between check and use gains nothing. No redirect is followed, and size and
 * time have their limits.
 */

/** What may go wrong, and whether the same request may succeed a little later. */
export const GUARDED_FETCH_ERRORS = {
  /** The URL itself: not one, another scheme, a user name, a port or host that may not be asked. */
  url_refused: { retryable: false },
  /** The name leads to an address that may not be asked. */
  address_refused: { retryable: false },
  name_not_resolved: { retryable: true },
  connection_failed: { retryable: true },
  certificate_refused: { retryable: false },
  timed_out: { retryable: true },
  /** The answer is no HTTP, or a redirect. */
  answer_refused: { retryable: false },
  answer_too_large: { retryable: false },
  /** This process has no room for the answer at the moment. */
  no_room: { retryable: true },
  /** The caller's own signal. */
  aborted: { retryable: true },
} as const

export type GuardedFetchErrorCode = keyof typeof GUARDED_FETCH_ERRORS

export class GuardedFetchError extends Error {
  readonly code: GuardedFetchErrorCode
  readonly retryable: boolean

  constructor(code: GuardedFetchErrorCode, message: string, cause?: unknown) {
    super(message, { cause })
    this.name = 'GuardedFetchError'
    this.code = code
    this.retryable = GUARDED_FETCH_ERRORS[code].retryable
  }
}

export type ResolvedAddress = { readonly address: string; readonly family: number }

export type GuardedFetchOptions = {
  readonly method?: string
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string | Buffer
  /** For all of it, from resolving the name to the last byte. */
  readonly timeoutMs: number
  /** Of the body of the answer. */
  readonly maxBytes: number
  /** A further condition on the URL. Absent: any host will do. */
  readonly mayReach?: (url: URL) => boolean
  /** True: plain http as well. Absent: https alone. */
  readonly allowHttp?: boolean
  /** True: the addresses may be private or loopback; link-local ones never. For hosts an operator named. */
  readonly allowPrivate?: boolean
  /** Absent: 80, 443 and 8443. */
  readonly ports?: readonly number[]
  /** Told of each part of the answer before it is kept; false gives the request up with `no_room`. */
  readonly takeBytes?: (bytes: number) => boolean
  readonly signal?: AbortSignal
  /** Every address of a name. Absent: as the system resolves it. */
  readonly lookup?: (hostname: string) => Promise<readonly ResolvedAddress[]>
}

export type GuardedAnswer = {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly body: Buffer
}

const PORTS = [80, 443, 8443]

/** Answers with whatever status but a redirect; throws a GuardedFetchError otherwise. */
export async function guardedFetch(url: string | URL, options: GuardedFetchOptions): Promise<GuardedAnswer> {
  const checked = checkUrl(url, options)
  const deadline = AbortSignal.timeout(options.timeoutMs)
  const signal = options.signal === undefined ? deadline : AbortSignal.any([deadline, options.signal])
  try {
    const addresses = await orAborted(resolve(checked, options), signal)
    const response = await send(checked, addresses, options, signal)
    return await readAnswer(response, options)
  } catch (error) {
    throw explain(error, checked, deadline, options)
  }
}

function checkUrl(text: string | URL, options: GuardedFetchOptions): URL {
  const refuse = (why: string) => new GuardedFetchError('url_refused', why)
  const url = URL.parse(String(text))
  if (url === null) throw refuse('it is not a URL')
  const isHttp = url.protocol === 'http:' && options.allowHttp === true
  if (url.protocol !== 'https:' && !isHttp) throw refuse(`${url.protocol} is not allowed, only https:`)
  if (url.username !== '' || url.password !== '') throw refuse('it has a user name or password in it')
  const port = portOf(url)
  if (!(options.ports ?? PORTS).includes(port)) throw refuse(`port ${port} is not allowed`)
  if (options.mayReach?.(url) === false) throw refuse(`host ${url.host} is not allowed`)
  return url
}

/** Every address has to be allowed: which of them is connected to would be chance otherwise. */
async function resolve(url: URL, options: GuardedFetchOptions): Promise<readonly ResolvedAddress[]> {
  // In brackets when it is an IPv6 address; other notations of IPv4 (2130706433, 0x7f.1) the URL parser has written out.
  const hostname = url.hostname.replace(/^\[(.*)\]$/, '$1')
  const family = isIP(hostname)
  const addresses = family === 0 ? await resolveName(hostname, options) : [{ address: hostname, family }]
  for (const { address } of addresses) {
    const reach = reachOf(address)
    if (reach === 'public' || (reach === 'private' && options.allowPrivate === true)) continue
    throw new GuardedFetchError(
      'address_refused',
      `host ${hostname} leads to ${address}, which is not public`,
    )
  }
  return addresses
}

async function resolveName(
  hostname: string,
  options: GuardedFetchOptions,
): Promise<readonly ResolvedAddress[]> {
  try {
    const addresses = await (options.lookup ?? lookupAll)(hostname)
    if (addresses.length > 0) return addresses
  } catch (error) {
    throw new GuardedFetchError('name_not_resolved', `host ${hostname} could not be resolved`, error)
  }
  throw new GuardedFetchError('name_not_resolved', `host ${hostname} has no address`)
}

function lookupAll(hostname: string): Promise<ResolvedAddress[]> {
  return new Promise((resolve, reject) => {
    systemLookup(hostname, { all: true }, (error, addresses) => (error ? reject(error) : resolve(addresses)))
  })
}

function send(
  url: URL,
  addresses: readonly ResolvedAddress[],
  options: GuardedFetchOptions,
  signal: AbortSignal,
): Promise<IncomingMessage> {
  const request = url.protocol === 'https:' ? httpsRequest : httpRequest
  return new Promise((resolve, reject) => {
    const sent: ClientRequest = request(url, {
      method: options.method ?? 'GET',
      headers: { ...options.headers, 'Accept-Encoding': 'identity' },
      // The name stays in Host and SNI; its addresses are the checked ones.
      lookup: lookupOf(addresses),
      // A connection of its own: one kept open for a host was opened under another check.
      agent: false,
      signal,
    })
    sent.on('response', resolve)
    sent.on('error', reject)
    sent.end(options.body)
  })
}

function lookupOf(addresses: readonly ResolvedAddress[]): LookupFunction {
  return (_hostname, { all }, callback) => {
    const [first] = addresses
    if (all === true) callback(null, [...addresses])
    else callback(null, first?.address ?? '', first?.family ?? 4)
  }
}

async function readAnswer(response: IncomingMessage, options: GuardedFetchOptions): Promise<GuardedAnswer> {
  const { statusCode: status = 0, headers } = response
  try {
    if (status >= 300 && status < 400) {
      throw new GuardedFetchError(
        'answer_refused',
        `it answered with a redirect (${status}), which is not followed`,
      )
    }
    const declared = Number(headers['content-length'] ?? 0)
    if (declared > options.maxBytes) throw tooLarge(options)
    const chunks: Buffer[] = []
    let size = 0
    for await (const chunk of response as AsyncIterable<Buffer>) {
      size += chunk.length
      if (size > options.maxBytes) throw tooLarge(options)
      if (options.takeBytes?.(chunk.length) === false) {
        throw new GuardedFetchError('no_room', 'this process is busy with as much as it can hold')
      }
      chunks.push(chunk)
    }
    return { status, headers, body: Buffer.concat(chunks) }
  } finally {
    // Whatever is left unread is not wanted.
    response.destroy()
  }
}

function tooLarge({ maxBytes }: GuardedFetchOptions): GuardedFetchError {
  return new GuardedFetchError(
    'answer_too_large',
    `its answer is larger than the ${maxBytes} bytes that are allowed`,
  )
}

/** A look-up cannot be stopped; but nobody waits for it any longer. */
function orAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason)
    if (signal.aborted) abort()
    signal.addEventListener('abort', abort, { once: true })
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort))
  })
}

function explain(
  error: unknown,
  url: URL,
  deadline: AbortSignal,
  { timeoutMs, signal }: GuardedFetchOptions,
): GuardedFetchError {
  if (error instanceof GuardedFetchError) return error
  if (signal?.aborted === true) return new GuardedFetchError('aborted', 'the request was given up', error)
  if (deadline.aborted) {
    return new GuardedFetchError(
      'timed_out',
      `there was no whole answer within ${timeoutMs / 1_000} s`,
      error,
    )
  }
  const code = String((error as { code?: unknown } | null)?.code ?? '')
  if (code.startsWith('HPE_')) {
    return new GuardedFetchError('answer_refused', `its answer is not HTTP (${code})`, error)
  }
  if (CERTIFICATE_FAULT.test(code)) {
    return new GuardedFetchError(
      'certificate_refused',
      `its certificate is not valid for it (${code})`,
      error,
    )
  }
  return new GuardedFetchError(
    'connection_failed',
    `the connection to ${url.host} failed (${code || error})`,
    error,
  )
}

/** OpenSSL's names for what is wrong with a certificate (X509_V_ERR_…), and Node's own for a wrong name. */
const CERTIFICATE_FAULT =
  /^(?:CERT_|CRL_|UNABLE_TO_|SELF_SIGNED_|DEPTH_ZERO_|INVALID_(?:CA|PURPOSE)|HOSTNAME_MISMATCH|PATH_LENGTH_|ERR_TLS_CERT_)/
