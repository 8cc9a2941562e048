import type { Server, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { BriefMap } from '../brief-map.ts'

/** For the rest of the head of a request that has begun to come when the end begins. */
const GRACE_MS = 1_000

type Connection = {
  readonly socket: Socket
  /** Not through yet, in their order. */
  readonly answers: ServerResponse[]
  /** The one that says that the connection ends. */
  last?: ServerResponse
  /** How much had been read when the latest answer was through: more is a request that has begun to come. */
  readAtRest: number
}

/**
 * Returns what ends a server: connections at rest end at once, those that wait for an answer with it. Without this, clients that keep
 * their connections would hold the end up for as long as they may keep them. What is still open when `limit` fires is cut off.
 */
export function createCloser(server: Server): (limit: AbortSignal) => Promise<void> {
  const connections = new BriefMap<Socket, Connection>()

  server.on('connection', (socket: Socket) => {
    connections.set(socket, { socket, answers: [], readAtRest: 0 })
    socket.once('close', () => connections.delete(socket))
  })
  server.prependListener('request', ({ socket }, answer) => {
    const connection = connections.get(socket)
    if (connection === undefined) return
    const { answers } = connection
    answers.push(answer)
    if (!server.listening) endWithLast(connection)
    answer.once('close', () => {
      answers.splice(answers.indexOf(answer), 1)
      connection.readAtRest = socket.bytesRead
      // One that was being sent when the end began did not say that its connection ends with it.
      if (!server.listening && answers.length === 0) socket.destroySoon()
    })
  })
  const endIdle = (isIdle: (connection: Connection) => boolean) => {
    for (const connection of connections.values()) {
      if (connection.answers.length === 0 && isIdle(connection)) connection.socket.destroySoon()
    }
  }
  // Called by `close`. Node's own takes a connection for idle whose answer is complete and still on its way to a slow reader.
  server.closeIdleConnections = () => endIdle(({ socket, readAtRest }) => socket.bytesRead === readAtRest)

  return (limit) => {
    const { promise, resolve } = Promise.withResolvers<void>()
    const cutOff = () => server.closeAllConnections()
    const grace = setTimeout(() => endIdle(() => true), GRACE_MS)
    limit.addEventListener('abort', cutOff)
    server.close(() => {
      clearTimeout(grace)
      limit.removeEventListener('abort', cutOff)
      resolve()
    })
    for (const connection of connections.values()) endWithLast(connection)
    if (limit.aborted) cutOff()
    return promise
  }
}

/** Only the last of a connection: those behind it would not be sent. */
function endWithLast(connection: Connection): void {
  const open = connection.answers.filter((answer) => !answer.headersSent)
  const answer = open.at(-1)
  if (answer === undefined) return
  if (connection.last !== undefined && open.includes(connection.last)) connection.last.shouldKeepAlive = true
  answer.shouldKeepAlive = false
  connection.last = answer
}
