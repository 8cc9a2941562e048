import { Agent, type ClientRequest, type IncomingHttpHeaders, type IncomingMessage, request } from 'node:http'
import { Agent as TlsAgent, request as tlsRequest } from 'node:https'
import type { Socket } from 'node:net'
import { reached } from '../../crash-point.ts'
import {
  CLAIM_LOST,
  type StillOurs,
  UNKNOWN_CODES,
  type UnknownCode,
  type UnreachableCode,
  UPLOAD_BYTES_PER_MS,
} from '../transport.ts'

/**
 * The one HTTP client of all providers. It writes a request, and says what is known of it afterwards.
 *
 * The last byte of a request is held back until everything before it has left. Up to then the provider cannot have a
 * whole request, so a fault means that nothing was accepted; from then on it may have been, until the answer says so.
 * If the process dies, the same line decides: a request without its last byte is discarded by the provider.
 */

/** Upper limits. Once it has its turn, a request ends within `totalMs`, and a large one within its time to upload more. */
export type HttpTimeouts = {
  /** From the DNS lookup to the end of the TLS handshake. */
  readonly connectMs: number
  /** Silence from the last byte of the request to the end of the answer's headers. */
  readonly headersMs: number
  /** Everything, the upload and the body of the answer included. */
  readonly totalMs: number
}

export type HttpClientOptions = {
  readonly baseUrl: URL
  /** Never exceeded, whatever the number of requests; the others wait their turn. */
  readonly maxConnections: number | (() => number)
  readonly timeouts?: HttpTimeouts
  /** The certificates to trust instead of the usual ones. */
  readonly ca?: string
}

export type HttpRequest = {
  /** Below the base URL, with its leading slash. */
  readonly path: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: Buffer
}

export type HttpAnswer = {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  /** Undefined when it broke off, did not end in time, or was larger than any answer. */
  readonly body: string | undefined
}

export type HttpResult =
  | { readonly kind: 'answered'; readonly answer: HttpAnswer }
  | { readonly kind: 'unreachable'; readonly code: UnreachableCode; readonly reason: string }
  | { readonly kind: 'unknown'; readonly code: UnknownCode; readonly reason: string }

const DEFAULT_TIMEOUTS: HttpTimeouts = { connectMs: 10_000, headersMs: 30_000, totalMs: 60_000 }
/** Under the five seconds that the least patient servers in use keep a connection: theirs is then never the first end. */
const IDLE_MS = 4_000
/** For one message; a batch is answered message by message, so it may be as long again as what was sent. */
const MAX_ANSWER_BYTES = 64 * 1024
const MAX_HEADER_BYTES = 16 * 1024

export class HttpClient {
  readonly #options: HttpClientOptions
  readonly #agent: Agent
  readonly #drained = Promise.withResolvers<void>()
  #inFlight = 0
  #closed = false

  constructor(options: HttpClientOptions) {
    const maxSockets = limitOf(options)
    const pool = {
      keepAlive: true,
      maxSockets,
      maxFreeSockets: maxSockets,
      // The one used last is used next, so that those not needed for the load grow old and leave.
      scheduling: 'lifo',
      timeout: IDLE_MS,
    } as const
    this.#options = options
    this.#agent =
      options.baseUrl.protocol === 'https:'
        ? new TlsAgent({ ...pool, ...(options.ca === undefined ? {} : { ca: options.ca }) })
        : new Agent(pool)
  }

  /** Never rejects, follows no redirect, and never writes a request twice. */
  async post(request: HttpRequest, signal?: AbortSignal, isStillOurs?: StillOurs): Promise<HttpResult> {
    if (this.#closed) return unreachable('transport_closed', 'the transport was closed before the send began')
    if (signal?.aborted) return unreachable('aborted', 'the send was aborted before it began')
    this.#inFlight += 1
    this.#agent.maxSockets = limitOf(this.#options)
    try {
      return await new Exchange(this.#options, this.#agent, request, signal, isStillOurs).result
    } finally {
      this.#inFlight -= 1
      if (this.#closed && this.#inFlight === 0) this.#drained.resolve()
    }
  }

  /** Lets requests in flight finish, takes no new ones, and resolves when every connection is closed. */
  async close(): Promise<void> {
    this.#closed = true
    if (this.#inFlight === 0) this.#drained.resolve()
    await this.#drained.promise
    this.#agent.destroy()
  }
}

function limitOf({ maxConnections }: HttpClientOptions): number {
  return typeof maxConnections === 'number' ? maxConnections : maxConnections()
}

/** How far a request has come; `sent` begins with its last byte. */
type Phase = 'waiting' | 'connecting' | 'securing' | 'sending' | 'sent'

/** One request and its answer. Its parts, faults, limits and the signal race to end it. */
class Exchange {
  readonly result: Promise<HttpResult>
  readonly #resolve: (result: HttpResult) => void
  readonly #timeouts: HttpTimeouts
  readonly #isTls: boolean
  readonly #body: Buffer
  readonly #signal: AbortSignal | undefined
  readonly #isStillOurs: StillOurs
  readonly #abort = () => this.#fail('aborted', 'the send was aborted')
  readonly #request: ClientRequest
  #phase: Phase = 'waiting'
  #answer: IncomingMessage | undefined
  #stepTimer: NodeJS.Timeout | undefined
  #totalTimer: NodeJS.Timeout | undefined
  #ended = false

  constructor(
    options: HttpClientOptions,
    agent: Agent,
    { path, headers, body }: HttpRequest,
    signal: AbortSignal | undefined,
    isStillOurs: StillOurs = () => true,
  ) {
    const { baseUrl, timeouts = DEFAULT_TIMEOUTS } = options
    const { promise, resolve } = Promise.withResolvers<HttpResult>()
    this.result = promise
    this.#resolve = resolve
    this.#timeouts = timeouts
    this.#body = body
    this.#signal = signal
    this.#isStillOurs = isStillOurs
    this.#isTls = baseUrl.protocol === 'https:'
    this.#request = (this.#isTls ? tlsRequest : request)({
      agent,
      method: 'POST',
      host: baseUrl.hostname.replace(/^\[(.*)\]$/, '$1'),
      port: baseUrl.port === '' ? (this.#isTls ? 443 : 80) : Number(baseUrl.port),
      path: baseUrl.pathname.replace(/\/$/, '') + path,
      headers: { 'user-agent': 'Sluice', ...headers, 'content-length': String(body.length) },
      maxHeaderSize: MAX_HEADER_BYTES,
    })
    signal?.addEventListener('abort', this.#abort, { once: true })
    this.#request.on('error', (error: NodeJS.ErrnoException) => this.#failWith(error))
    this.#request.once('socket', (socket) => this.#begin(socket))
    this.#request.once('response', (answer) => this.#receive(answer))
    // Nobody asked for another protocol, and no answer follows in this one.
    this.#request.once('upgrade', (_answer, socket) => {
      this.#fail('protocol_error', 'the answer is 101 Switching Protocols')
      socket.destroy()
    })
  }

  #begin(socket: Socket): void {
    this.#phase = 'connecting'
    this.#totalTimer = this.#limit(
      this.#timeouts.totalMs + Math.floor(this.#body.length / UPLOAD_BYTES_PER_MS),
    )
    if (!socket.connecting) {
      this.#write()
      return
    }
    this.#stepTimer = this.#limit(this.#timeouts.connectMs)
    socket.once('connect', () => {
      if (this.#isTls) this.#phase = 'securing'
      else this.#write()
    })
    if (this.#isTls) socket.once('secureConnect', () => this.#write())
  }

  #write(): void {
    if (this.#ended) return
    clearTimeout(this.#stepTimer)
    this.#phase = 'sending'
    const { socket } = this.#request
    // Between bytes taken, not for all of them: a large body on a slow link is no stall.
    const stalled = () => this.#fail('timed_out', `no byte was taken for ${this.#timeouts.headersMs} ms`)
    socket?.setTimeout(this.#timeouts.headersMs, stalled)
    const last = this.#body.length - 1
    this.#request.write(this.#body.subarray(0, last), (error) => {
      // A fault while writing is reported as an event of the request.
      if (this.#ended || error) return
      socket?.setTimeout(0, stalled)
      void this.#complete(this.#body.subarray(last))
    })
  }

  async #complete(lastByte: Buffer): Promise<void> {
    const answer = this.#isStillOurs()
    const isOurs = answer === true || (await answer)
    if (this.#ended) return
    if (!isOurs) {
      this.#finish(CLAIM_LOST)
      return
    }
    reached('http.before-last-byte')
    this.#phase = 'sent'
    this.#stepTimer = this.#limit(this.#timeouts.headersMs)
    this.#request.end(lastByte, () => reached('http.request-sent'))
  }

  #receive(answer: IncomingMessage): void {
    const status = answer.statusCode ?? 0
    answer.on('error', () => this.#finishWith(undefined))
    if (this.#phase !== 'sent' && status < 400) {
      this.#fail('protocol_error', 'the answer came before the request')
      return
    }
    clearTimeout(this.#stepTimer)
    this.#answer = answer
    const chunks: Buffer[] = []
    let room = MAX_ANSWER_BYTES + this.#body.length
    answer.on('data', (chunk: Buffer) => {
      room -= chunk.length
      if (room < 0) this.#finishWith(undefined)
      else chunks.push(chunk)
    })
    answer.once('end', () => {
      reached('http.answered')
      this.#finishWith(Buffer.concat(chunks).toString('utf8'))
    })
    answer.once('close', () => this.#finishWith(undefined))
  }

  #limit(ms: number): NodeJS.Timeout {
    return setTimeout(() => this.#fail('timed_out', `no end of it within ${ms} ms`), ms)
  }

  #failWith(error: NodeJS.ErrnoException): void {
    const { code = '', message } = error
    this.#fail(faultCode(this.#phase, code), message.includes(code) ? message : `${code}: ${message}`)
  }

  /** The one place where the phase decides: before the last byte nothing was accepted, after it nobody knows. */
  #fail(code: UnreachableCode, reason: string): void {
    // The status of an answer stands, though its body never ends.
    if (this.#answer !== undefined) this.#finishWith(undefined)
    else if (this.#phase !== 'sent') this.#finish(unreachable(code, reason))
    else this.#finish({ kind: 'unknown', code: isUnknownCode(code) ? code : 'connection_lost', reason })
  }

  #finishWith(body: string | undefined): void {
    const answer = this.#answer
    if (answer === undefined) return
    const { statusCode: status = 0, headers } = answer
    this.#finish({ kind: 'answered', answer: { status, headers, body } })
  }

  #finish(result: HttpResult): void {
    if (this.#ended) return
    this.#ended = true
    clearTimeout(this.#stepTimer)
    clearTimeout(this.#totalTimer)
    this.#signal?.removeEventListener('abort', this.#abort)
    const isWhole = result.kind === 'answered' && result.answer.body !== undefined && this.#phase === 'sent'
    // A connection with half a request or half an answer on it is of no use to the next one.
    if (!isWhole) this.#request.destroy()
    this.#resolve(result)
  }
}

function faultCode(phase: Phase, systemCode: string): UnreachableCode {
  if (systemCode === 'ETIMEDOUT') return 'timed_out'
  // The parser's names: something was said, but it is not HTTP.
  if (systemCode.startsWith('HPE_')) return 'protocol_error'
  if (/^(?:ENOTFOUND|ENODATA|EAI_)/.test(systemCode)) return 'dns_failed'
  if (phase === 'connecting') return 'connect_failed'
  return phase === 'securing' && systemCode !== 'ECONNRESET' ? 'tls_failed' : 'connection_lost'
}

function isUnknownCode(code: UnreachableCode): code is UnreachableCode & UnknownCode {
  return (UNKNOWN_CODES as readonly string[]).includes(code)
}

function unreachable(code: UnreachableCode, reason: string): HttpResult {
  return { kind: 'unreachable', code, reason }
}
