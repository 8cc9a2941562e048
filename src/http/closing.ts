import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'

/** For the rest of a first request that has begun to come when the end begins. */
const GRACE_MS = 1_000

/**
 * Returns what ends a server: connections at rest end at once, those that wait for an answer with it. Without this, clients that keep
 * their connections would hold the end up for as long as they may keep them. What is still open when `limit` fires is cut off.
 */
export function createCloser(server: Server): (limit: AbortSignal) => Promise<void> {
  const connections = new Set<Socket>()
  /** Those on which no request came yet. */
  const unused = new Set<Socket>()
  const answers = new Map<ServerResponse, Socket>()
  const use = ({ socket }: IncomingMessage) => unused.delete(socket)
  const isBusy = (socket: Socket) => [...answers.values()].includes(socket)

  server.on('connection', (socket: Socket) => {
    connections.add(socket)
    unused.add(socket)
    socket.once('close', () => {
      connections.delete(socket)
      unused.delete(socket)
    })
  })
  server.on('checkExpectation', use)
  server.prependListener('request', (request, answer) => {
    use(request)
    const { socket } = request
    answers.set(answer, socket)
    if (!server.listening) answer.shouldKeepAlive = false
    answer.once('close', () => {
      answers.delete(answer)
      // One that was being sent when the end began did not say that its connection ends with it.
      if (!server.listening && !isBusy(socket)) socket.destroySoon()
    })
  })
  // Called by `close`. Node's own takes a connection for idle whose answer is complete and still on its way to a slow reader.
  server.closeIdleConnections = () => {
    const busy = new Set(answers.values())
    for (const socket of connections) {
      const hasBegun = unused.has(socket) && socket.bytesRead > 0
      if (!busy.has(socket) && !hasBegun) socket.destroySoon()
    }
  }

  return (limit) => {
    const { promise, resolve } = Promise.withResolvers<void>()
    const cutOff = () => server.closeAllConnections()
    const grace = setTimeout(() => {
      for (const socket of unused) socket.destroy()
    }, GRACE_MS)
    limit.addEventListener('abort', cutOff)
    server.close(() => {
      clearTimeout(grace)
      limit.removeEventListener('abort', cutOff)
      resolve()
    })
    for (const answer of answers.keys()) if (!answer.headersSent) answer.shouldKeepAlive = false
    if (limit.aborted) cutOff()
    return promise
  }
}
