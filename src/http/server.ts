import { createServer, type IncomingMessage, type Server, type ServerResponse, STATUS_CODES } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Duplex } from 'node:stream'
import { getRequestListener, RequestError } from '@hono/node-server'
import type { Hono } from 'hono'
import { createCloser } from './closing.ts'
import { faultOf, NO_PATH, type RequestFault } from './request-faults.ts'
import { SECURITY_HEADERS, setSecurityHeaders } from './security-headers.ts'

export type HttpServer = {
  readonly url: string
  /** Takes no new connection, lets requests under way finish until `limit`, then cuts them off. */
  close(limit: AbortSignal): Promise<void>
}

/** For senders that are slow on purpose: each of them holds a connection. */
export type ServerTimeouts = {
  /** From the connection, or the answer before, to the end of the head. */
  readonly headMs: number
  /** For all of a request. Of silence in a body whoever reads it decides (body-pieces.ts): it may be ours. */
  readonly requestMs: number
  /** How often heads and requests are looked at. */
  readonly lookEveryMs: number
}

/**
 * How long a connection without a request is kept. Longer than balancers and clients keep theirs, mostly for a minute: who hangs up
 * first should be whoever sends, or requests are lost that cross the hang-up.
 */
const KEPT_MS = 65_000

const TIMEOUTS: ServerTimeouts = { headMs: 15_000, requestMs: 300_000, lookEveryMs: 5_000 }

/** What node's parser refuses never reaches the app; by the codes of its errors. */
const REFUSED_BY_PARSER: Readonly<Record<string, RequestFault>> = {
  HPE_HEADER_OVERFLOW: { status: 431, message: 'The request headers are larger than 16 KB; send less.' },
  HPE_CHUNK_EXTENSIONS_OVERFLOW: { status: 413, message: 'The chunk extensions are too large; send none.' },
  ERR_HTTP_REQUEST_TIMEOUT: { status: 408, message: 'The request did not arrive in time. Repeat it.' },
}
const NOT_HTTP: RequestFault = { status: 400, message: 'The request is not valid HTTP.' }
const NO_EXPECTATION: RequestFault = {
  status: 417,
  message: 'The header `Expect` of the request can only be `100-continue`.',
}

/** Of what is answered before the app. */
const REFUSAL_HEADERS = { 'Content-Type': 'application/json' } as const

export async function listen(
  app: Hono,
  address: { host: string; port: number },
  timeouts: ServerTimeouts = TIMEOUTS,
): Promise<HttpServer> {
  const server = openServer(app, timeouts)
  const close = createCloser(server)
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(address.port, address.host, () => {
      server.off('error', reject)
      resolve()
    })
  })
  const { port } = server.address() as AddressInfo
  const host = address.host.includes(':') ? `[${address.host}]` : address.host
  return { url: `http://${host}:${port}`, close }
}

function openServer(app: Hono, { headMs, requestMs, lookEveryMs }: ServerTimeouts): Server {
  const answer = getRequestListener(app.fetch, { errorHandler: answerRequestError })
  const underWay = new UnderWay()
  const server = createServer({
    headersTimeout: headMs,
    requestTimeout: requestMs,
    keepAliveTimeout: KEPT_MS,
    connectionsCheckingInterval: lookEveryMs,
    // Ours says what is wrong.
    requireHostHeader: false,
  })
  server.on('request', (incoming, outgoing) => {
    underWay.begin(incoming, outgoing)
    setSecurityHeaders(outgoing)
    const fault = faultOf(incoming)
    if (fault !== undefined) return refuse(outgoing, fault)
    return answer(incoming, outgoing)
  })
  server.on('checkExpectation', (_incoming, outgoing) => {
    setSecurityHeaders(outgoing)
    refuse(outgoing, NO_EXPECTATION)
  })
  server.on('clientError', (error: NodeJS.ErrnoException, socket) => {
    if (!socket.writable || error.code === 'ECONNRESET') {
      socket.destroy()
      return
    }
    const fault = REFUSED_BY_PARSER[error.code ?? ''] ?? NOT_HTTP
    underWay.whenAnswered(socket, () => socket.end(answerOf(fault)))
  })
  return server
}

/** A target that only the URL parser finds wrong; the app answers all of its own errors itself. */
function answerRequestError(error: unknown): Response {
  if (!(error instanceof RequestError)) throw error
  return new Response(bodyOf(NO_PATH), {
    status: NO_PATH.status,
    headers: REFUSAL_HEADERS,
  })
}

/**
 * Requests by their connection. Answers are told apart by their order alone (RFC 9112 section 9.3.2), so what is said of
 * bytes that are no request has to wait: said at once, it would be taken for the answer to a request before them.
 */
class UnderWay {
  /** In lists and not in sets, which would hold them for long (see brief-map.ts). */
  readonly #requests = new WeakMap<Duplex, IncomingMessage[]>()

  begin(incoming: IncomingMessage, outgoing: ServerResponse): void {
    const { socket } = incoming
    const requests = this.#requestsOn(socket)
    requests.push(incoming)
    outgoing.once('close', () => {
      requests.splice(requests.indexOf(incoming), 1)
      socket.emit(ANSWERED)
    })
  }

  /** All but the one whose body is at fault: it is what `act` answers. */
  whenAnswered(socket: Duplex, act: () => void): void {
    const requests = this.#requestsOn(socket)
    const look = () => {
      if (requests.some(({ complete }) => complete)) return
      socket.off(ANSWERED, look)
      act()
    }
    socket.on(ANSWERED, look)
    look()
  }

  #requestsOn(socket: Duplex): IncomingMessage[] {
    const known = this.#requests.get(socket)
    if (known !== undefined) return known
    const requests: IncomingMessage[] = []
    this.#requests.set(socket, requests)
    return requests
  }
}

const ANSWERED = Symbol('answered')

function bodyOf({ status, message }: RequestFault): string {
  return JSON.stringify({ statusCode: status, name: 'validation_error', message })
}

function refuse(outgoing: ServerResponse, fault: RequestFault): void {
  const body = bodyOf(fault)
  const headers = { ...REFUSAL_HEADERS, 'Content-Length': body.length, Connection: 'close' }
  outgoing.writeHead(fault.status, headers).end(body)
}

function answerOf(fault: RequestFault): string {
  const body = bodyOf(fault)
  const headers = {
    ...REFUSAL_HEADERS,
    ...SECURITY_HEADERS,
    'Content-Length': body.length,
    Connection: 'close',
  }
  const head = [
    `HTTP/1.1 ${fault.status} ${STATUS_CODES[fault.status]}`,
    ...Object.entries(headers).map((pair) => pair.join(': ')),
  ]
  return `${head.join('\r\n')}\r\n\r\n${body}`
}
