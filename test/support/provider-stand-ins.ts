import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { AddressInfo, Socket } from 'node:net'
import { buffer } from 'node:stream/consumers'
import { TLSSocket } from 'node:tls'
import { type Answer, DOCUMENTED, type Received, type StandInProvider } from './provider-rules.ts'
import type { Scope } from './scope.ts'

/** A provider's API on loopback, which answers as documented, or in one of the many ways in which servers fail. */

/** For 127.0.0.1, signed by itself, valid for a hundred years; its key is no secret. */
export const STAND_IN_CERTIFICATE = `-----BEGIN CERTIFICATE-----
MIIBjzCCATSgAwIBAgIUFc+IDWR+7oG02HYIT/34xQppb8AwCgYIKoZIzj0EAwIw
EzERMA8GA1UEAwwIc3RhbmQtaW4wIBcNMjYxMTIxMTkwMDM1WhgPMjEyNjEwMjgx
OTAwMzVaMBMxETAPBgNVBAMMCHN0YW5kLWluMFkwEwYHKoZIzj0CAQYIKoZIzj0D
AQcDQgAE85+MoWRm3NIVq00iQ4D8BeU7XXGVQlSJcJYurmMc3ha7EdOF5ZFDzy2X
/2841mB4FGlcHIQ4mdCeSKxzBuOXdKNkMGIwHQYDVR0OBBYEFIpvBbcYWVLEjJzQ
m6wQI1ALMP2PMB8GA1UdIwQYMBaAFIpvBbcYWVLEjJzQm6wQI1ALMP2PMA8GA1Ud
EwEB/wQFMAMBAf8wDwYDVR0RBAgwBocEfwAAATAKBggqhkjOPQQDAgNJADBGAiEA
1Mj3+NJJKo0J1joy4PJ5J90jx71hCmH+BwRDICR5ioICIQDm3nL5mwDUO/X9WBBy
Zuax85IEANp2li3EoamxD2HoVw==
-----END CERTIFICATE-----
`
export const STAND_IN_CERTIFICATE_KEY = `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgPgmrXxVvJAT0XQiW
PupZRDgWJ4X8HdVwlwfy17HB4AqhRANCAATzn4yhZGbc0hWrTSJDgPwF5TtdcZVC
VIlwli6uYxzeFrsR04XlkUPPLZf/bzjWYHgUaVwchDiZ0J5IrHMG45d0
-----END PRIVATE KEY-----
`

/** What a server can do instead of answering. */
export type Misdeed =
  | 'hang'
  | 'hang-in-body'
  | 'reset'
  | 'hang-up'
  | 'reset-in-body'
  | 'garbage'
  | 'drip'
  | 'redirect'
  | 'huge-body'
  | 'huge-headers'
  | 'switch-protocols'

export type StandInOptions = {
  /** Decides the answer to request number `count`, from 1; undefined leaves it to the documentation. */
  readonly onRequest?: (
    received: Received,
    count: number,
  ) => Answer | Misdeed | undefined | Promise<Answer | Misdeed | undefined>
  /** Speaks TLS, with `STAND_IN_CERTIFICATE`. */
  readonly tls?: boolean
  /** Sees each new connection before anything is read from it. */
  readonly onConnection?: (socket: Socket) => void
}

export type StandIn = {
  readonly url: string
  /** Whole requests, good or bad. */
  readonly requests: readonly Received[]
  readonly connections: { readonly total: number; readonly open: number; readonly most: number }
  /** Resolves as soon as `count` requests have come. */
  waitForRequests(count: number): Promise<void>
  /** Resolves as soon as no connection is open. */
  waitUntilQuiet(): Promise<void>
}

export async function startStandIn(
  t: Pick<Scope, 'after'>,
  provider: StandInProvider,
  options: StandInOptions = {},
): Promise<StandIn> {
  const requests: Received[] = []
  const connections = { total: 0, open: 0, most: 0 }
  const sockets = new Set<Socket>()
  const waiting = new Set<() => void>()
  const changed = () => {
    for (const check of waiting) check()
  }
  const until = (holds: () => boolean) =>
    new Promise<void>((resolve) => {
      const check = () => {
        if (!holds()) return
        waiting.delete(check)
        resolve()
      }
      waiting.add(check)
      check()
    })
  const listener = (request: IncomingMessage, response: ServerResponse) => {
    void receive(request).then(async (received) => {
      if (received === undefined) return
      requests.push(received)
      changed()
      const given = await options.onRequest?.(received, requests.length)
      respond(response, given ?? (await DOCUMENTED[provider](received)))
    })
  }
  const tls = { cert: STAND_IN_CERTIFICATE, key: STAND_IN_CERTIFICATE_KEY }
  const server = options.tls
    ? createTlsServer({ keepAliveTimeout: 60_000, ...tls }, listener)
    : createServer({ keepAliveTimeout: 60_000 }, listener)
  server.on('connection', (socket: Socket) => {
    sockets.add(socket)
    connections.total += 1
    connections.open += 1
    connections.most = Math.max(connections.most, connections.open)
    // A client that breaks off is part of what is tested; the test sees it from the client's side.
    socket.on('error', changed)
    socket.once('close', () => {
      sockets.delete(socket)
      connections.open -= 1
      changed()
    })
    options.onConnection?.(socket)
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  t.after(async () => {
    for (const socket of sockets) socket.destroy()
    await new Promise((resolve) => server.close(resolve))
  })
  return {
    url: `${options.tls ? 'https' : 'http'}://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    connections,
    waitForRequests: (count) => until(() => requests.length >= count),
    waitUntilQuiet: () => until(() => connections.open === 0),
  }
}

/** Undefined for a request that broke off. */
async function receive(request: IncomingMessage): Promise<Received | undefined> {
  try {
    const body = await buffer(request)
    return { path: `${request.method} ${request.url}`, headers: request.headers, body }
  } catch {
    return undefined
  }
}

function respond(response: ServerResponse, answer: Answer | Misdeed): void {
  if (typeof answer === 'string') {
    misbehave(response, answer)
    return
  }
  const { status, headers = {}, body = '' } = answer
  const isRaw = typeof body === 'string' || Buffer.isBuffer(body)
  response.writeHead(status, { ...(isRaw ? {} : { 'content-type': 'application/json' }), ...headers })
  response.end(isRaw ? body : JSON.stringify(body))
}

function misbehave(response: ServerResponse, misdeed: Misdeed): void {
  const { socket } = response
  switch (misdeed) {
    case 'hang':
      return
    case 'hang-in-body':
      response.writeHead(200, { 'content-length': '100' })
      response.write('{"id":')
      return
    case 'reset':
      reset(socket)
      return
    case 'hang-up':
      socket?.end()
      return
    case 'reset-in-body':
      response.writeHead(200, { 'content-length': '100' })
      response.write('{"id":', () => reset(socket))
      return
    case 'garbage':
      socket?.end('\x00\xff220 smtp.shop.test ESMTP\r\n')
      return
    case 'drip': {
      response.writeHead(200, { 'content-length': '100000' })
      const timer = setInterval(() => response.write(' '), 20)
      response.once('close', () => clearInterval(timer))
      return
    }
    case 'redirect':
      response.writeHead(307, { location: '/elsewhere' }).end()
      return
    case 'huge-body':
      response.writeHead(200).end(`{"id":"${'x'.repeat(1_000_000)}"}`)
      return
    case 'huge-headers':
      socket?.end(`HTTP/1.1 200 OK\r\nx-big: ${'x'.repeat(100_000)}\r\n\r\n`)
      return
    case 'switch-protocols':
      socket?.write('HTTP/1.1 101 Switching Protocols\r\nupgrade: mail\r\nconnection: upgrade\r\n\r\n')
  }
}

/** Over TLS the connection just ends, without the goodbye that TLS asks for. */
function reset(socket: Socket | null): void {
  if (socket instanceof TLSSocket) socket.destroy()
  else socket?.resetAndDestroy()
}
