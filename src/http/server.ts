import type { Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { createAdaptorServer } from '@hono/node-server'
import type { Hono } from 'hono'

export type HttpServer = {
  readonly url: string
  /** Takes no new connection, lets requests under way finish until `limit`, then cuts them off. */
  close(limit: AbortSignal): Promise<void>
}

export async function listen(app: Hono, address: { host: string; port: number }): Promise<HttpServer> {
  const server = createAdaptorServer({ fetch: app.fetch }) as Server
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
