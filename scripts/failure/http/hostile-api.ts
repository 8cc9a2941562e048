import { once } from 'node:events'
import { createServer, type ServerResponse } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { AddressInfo, Socket } from 'node:net'
import { buffer } from 'node:stream/consumers'
import {
  type Answer,
  DOCUMENTED,
  type Received,
  type StandInProvider,
} from '../../../test/support/provider-rules.ts'
import { STAND_IN_CERTIFICATE, STAND_IN_CERTIFICATE_KEY } from '../../../test/support/provider-stand-ins.ts'
import type { Scene } from '../run.ts'

/**
 * A provider's API that answers as documented but for its misdeeds, each done to its own messages, once. A request is in for
 * the first misdeed among its messages that is still to be done, and a batch takes all its messages with it.
 */

export type ApiMisdeed = {
  readonly does: string
  /** Answers, or does something else to the connection; what is left open is closed with the run. */
  readonly answer: (request: MisdeedRequest) => Answer | undefined
  /** The provider has the mail: its recipient may see it. */
  readonly keeps?: true
  /** About messages and not about requests: a batch is refused as a whole, so that each of them is asked alone. */
  readonly isRefusal?: true
}

export type MisdeedRequest = {
  readonly received: Received
  readonly response: ServerResponse
  /** What the documentation says to this request. */
  readonly documented: Answer
  readonly isBatch: boolean
}

/** A request that met a misdeed: its place, and whether it came back too soon is seen by `backAfterMs`. */
export type ApiEncounter = { readonly place: number; readonly at: number; backAfterMs?: number }

export type HostileApi = {
  readonly url: string
  /** By message. */
  readonly encounters: ReadonlyMap<string, readonly ApiEncounter[]>
  readonly copies: ReadonlyMap<string, number>
  readonly requests: () => number
}

/** Messages are known by their recipient, which no provider's form hides: `m<misdeed>.<n>@<lane>.example`. */
const KEY = /m\d+\.\d+@[a-z]+\.example/g

export async function startHostileApi(
  scene: Scene,
  provider: StandInProvider,
  misdeeds: readonly ApiMisdeed[],
  isTls = false,
): Promise<HostileApi> {
  const encounters = new Map<string, ApiEncounter[]>()
  const copies = new Map<string, number>()
  const sockets = new Set<Socket>()
  let requests = 0
  const keep = (keys: readonly string[]) => {
    for (const key of keys) {
      copies.set(key, (copies.get(key) ?? 0) + 1)
      scene.ledger.deliver(key)
    }
  }
  const meet = (keys: readonly string[], place: number) => {
    for (const key of keys) {
      const met = encounters.get(key) ?? []
      encounters.set(key, [...met, { place, at: performance.now() }])
    }
  }
  const handle = async (received: Received, response: ServerResponse) => {
    // It hung up, and this was under way on the same connection.
    if (response.socket?.writableEnded) return
    const keys = [...new Set(received.body.toString('latin1').match(KEY))]
    for (const key of keys) {
      const last = encounters.get(key)?.at(-1)
      if (last !== undefined) last.backAfterMs ??= performance.now() - last.at
    }
    const place = keys
      .map((key) => [key, Number(/^m(\d+)/.exec(key)?.[1])] as const)
      .find(([key, own]) => misdeeds[own] && !encounters.get(key)?.some((each) => each.place === own))?.[1]
    const documented = await DOCUMENTED[provider](received)
    const misdeed = place === undefined ? undefined : misdeeds[place]
    if (place === undefined || misdeed === undefined) {
      if (documented.status < 300) keep(keys)
      respond(response, documented)
      return
    }
    const isBatch = keys.length > 1
    // For one message in it: each is asked alone then, and met by what is its own.
    const isForOne = isBatch && misdeed.isRefusal === true
    if (!isForOne) meet(keys, place)
    if (misdeed.keeps) keep(keys)
    const answer = misdeed.answer({ received, response, documented, isBatch })
    if (answer !== undefined) respond(response, answer)
  }
  const listener: Parameters<typeof createServer>[1] = (request, response) => {
    requests += 1
    buffer(request)
      .then((body) =>
        handle({ path: `${request.method} ${request.url}`, headers: request.headers, body }, response),
      )
      // A client that gave up in the middle.
      .catch(() => request.socket.destroy())
  }
  const tls = { cert: STAND_IN_CERTIFICATE, key: STAND_IN_CERTIFICATE_KEY }
  const server = isTls ? createTlsServer(tls, listener) : createServer({ keepAliveTimeout: 60_000 }, listener)
  server.on('connection', (socket: Socket) => {
    sockets.add(socket)
    socket.on('error', () => socket.destroy())
    socket.once('close', () => sockets.delete(socket))
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  scene.after(async () => {
    for (const socket of sockets) socket.destroy()
    await new Promise((resolve) => server.close(resolve))
  })
  const { port } = server.address() as AddressInfo
  return {
    url: `${isTls ? 'https' : 'http'}://127.0.0.1:${port}`,
    encounters,
    copies,
    requests: () => requests,
  }
}

function respond(response: ServerResponse, { status, headers = {}, body = '' }: Answer): void {
  const isRaw = typeof body === 'string' || Buffer.isBuffer(body)
  response.writeHead(status, { ...(isRaw ? {} : { 'content-type': 'application/json' }), ...headers })
  response.end(isRaw ? body : JSON.stringify(body))
}
