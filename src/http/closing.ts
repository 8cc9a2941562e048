import type { Server, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'

/** For the rest of the head of a request that has begun to come when the end begins. */
const GRACE_MS = 1_000

/**
 * Returns what ends a server: connections at rest end at once, those that wait for an answer with it. Without this, clients that keep
 * their connections would hold the end up for as long as they may keep them. What is still open when `limit` fires is cut off.
 */
export function createCloser(server: Server): (limit: AbortSignal) => Promise<void> {
  /** How much had been read of each connection when its latest answer was through: more is a request that has begun to come. */
  const readAtRest = new Map<Socket, number>()
  const answers = new Map<ServerResponse, Socket>()
  /** Answers that say that their connection ends. */
  const last = new Set<ServerResponse>()
  const answersOn = (socket: Socket) =>
    [...answers].flatMap(([answer, of]) => (of === socket ? [answer] : []))

  /** Only the last of a connection: those behind it would not be sent. */
  const endWithLast = (socket: Socket) => {
    const open = answersOn(socket).filter((answer) => !answer.headersSent)
    for (const answer of open) if (last.delete(answer)) answer.shouldKeepAlive = true
    const answer = open.at(-1)
    if (answer === undefined) return
    answer.shouldKeepAlive = false
    last.add(answer)
  }

  server.on('connection', (socket: Socket) => {
    readAtRest.set(socket, 0)
    socket.once('close', () => readAtRest.delete(socket))
  })
  server.prependListener('request', ({ socket }, answer) => {
    answers.set(answer, socket)
    if (!server.listening) endWithLast(socket)
    answer.on('close', () => {
      answers.delete(answer)
      last.delete(answer)
      if (readAtRest.has(socket)) readAtRest.set(socket, socket.bytesRead)
      // One that was being sent when the end began did not say that its connection ends with it.
      if (!server.listening && answersOn(socket).length === 0) socket.destroySoon()
    })
  })
  // Called by `close`. Node's own takes a connection for idle whose answer is complete and still on its way to a slow reader.
  server.closeIdleConnections = () => {
    const busy = new Set(answers.values())
    for (const [socket, bytes] of readAtRest) {
      if (!busy.has(socket) && socket.bytesRead === bytes) socket.destroySoon()
    }
  }

  return (limit) => {
    const { promise, resolve } = Promise.withResolvers<void>()
    const cutOff = () => server.closeAllConnections()
    const grace = setTimeout(() => {
      const busy = new Set(answers.values())
      for (const socket of readAtRest.keys()) if (!busy.has(socket)) socket.destroySoon()
    }, GRACE_MS)
    limit.addEventListener('abort', cutOff)
    server.close(() => {
      clearTimeout(grace)
      limit.removeEventListener('abort', cutOff)
      resolve()
    })
    for (const socket of new Set(answers.values())) endWithLast(socket)
    if (limit.aborted) cutOff()
    return promise
  }
}
