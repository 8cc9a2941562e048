import type { Server, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'

/**
 * Returns what ends a server: connections at rest end at once, those that wait for an answer with it. Without this, clients that keep
 * their connections would hold the end up for as long as they may keep them. What is still open when `limit` fires is cut off.
 */
export function createCloser(server: Server): (limit: AbortSignal) => Promise<void> {
  /** No request came on these yet. */
  const unused = new Set<Socket>()
  const answers = new Set<ServerResponse>()
  server.on('connection', (socket: Socket) => {
    unused.add(socket)
    socket.once('close', () => unused.delete(socket))
  })
  server.prependListener('request', ({ socket }, answer) => {
    unused.delete(socket)
    answers.add(answer)
    if (!server.listening) answer.shouldKeepAlive = false
    answer.once('close', () => {
      answers.delete(answer)
      // One that was being sent when the end began did not say that its connection ends with it.
      if (!server.listening) setImmediate(() => server.closeIdleConnections())
    })
  })
  return (limit) => {
    const { promise, resolve } = Promise.withResolvers<void>()
    const cutOff = () => server.closeAllConnections()
    limit.addEventListener('abort', cutOff)
    server.close(() => {
      limit.removeEventListener('abort', cutOff)
      resolve()
    })
    for (const answer of answers) if (!answer.headersSent) answer.shouldKeepAlive = false
    for (const socket of unused) socket.destroy()
    if (limit.aborted) cutOff()
    return promise
  }
}
