import { type Server, STATUS_CODES } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Duplex } from 'node:stream'
import { createAdaptorServer } from '@hono/node-server'
import type { Hono } from 'hono'

export type HttpServer = {
  readonly url: string
  /** Takes no new connection, lets requests under way finish until `limit`, then cuts them off. */
  close(limit: AbortSignal): Promise<void>
}

/** What node's parser refuses never reaches the app; by the codes of its errors. */
const REFUSED_BY_PARSER: Readonly<Record<string, { status: number; message: string }>> = {
  HPE_HEADER_OVERFLOW: { status: 431, message: 'The request headers are larger than 16 KB; send less.' },
  HPE_CHUNK_EXTENSIONS_OVERFLOW: { status: 413, message: 'The chunk extensions are too large; send none.' },
  ERR_HTTP_REQUEST_TIMEOUT: { status: 408, message: 'The request did not arrive in time. Repeat it.' },
}
const NOT_HTTP = { status: 400, message: 'The request is not valid HTTP.' }

function answerClientError(error: NodeJS.ErrnoException, socket: Duplex): void {
  if (!socket.writable || error.code === 'ECONNRESET') {
    socket.destroy()
    return
  }
  const { status, message } = REFUSED_BY_PARSER[error.code ?? ''] ?? NOT_HTTP
  const body = JSON.stringify({ statusCode: status, name: 'validation_error', message })
  socket.end(
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\nConnection: close\r\n\r\n${body}`,
  )
}

export async function listen(app: Hono, address: { host: string; port: number }): Promise<HttpServer> {
  const server = createAdaptorServer({ fetch: app.fetch }) as Server
  server.on('clientError', answerClientError)
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(address.port, address.host, () => {
      server.off('error', reject)
      resolve()
    })
  })
  const { port } = server.address() as AddressInfo
  const host = address.host.includes(':') ? `[${address.host}]` : address.host
  return {
    url: `http://${host}:${port}`,
    close(limit) {
      return new Promise((resolve) => {
        const cutOff = () => server.closeAllConnections()
        limit.addEventListener('abort', cutOff)
        server.close(() => {
          limit.removeEventListener('abort', cutOff)
          resolve()
        })
        if (limit.aborted) cutOff()
      })
    },
  }
}
