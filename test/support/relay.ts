import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Server } from 'node:net'
import type { TestContext } from 'node:test'
import type { SmtpSink } from './smtp-sink.ts'

export type AbsentRelay = {
  /** Nothing listens here until `appear`. */
  readonly url: string
  /** From now on the address leads to the sink. */
  appear(): Promise<void>
}

/** Where nobody else listens or connects from: a port of 127.0.0.1 could be another test's by the time it is wanted. */
const HOST = '127.0.0.2'

/** The address of a sink that cannot be reached yet. */
export async function startAbsentRelay(t: TestContext, sink: SmtpSink): Promise<AbsentRelay> {
  const reserved = await listenOn(0)
  const { port } = reserved.address() as AddressInfo
  await new Promise((resolve) => reserved.close(resolve))
  let server: Server | undefined
  t.after(() => server?.close())
  return {
    url: `smtp://${HOST}:${port}`,
    appear: async () => {
      server = await listenOn(port, sink)
    },
  }
}

async function listenOn(port: number, sink?: SmtpSink): Promise<Server> {
  const server = createServer((client) => {
    const there = connect(Number(sink?.host.split(':')[1]), '127.0.0.1')
    client.on('error', () => there.destroy())
    there.on('error', () => client.destroy())
    client.pipe(there).pipe(client)
  })
  server.listen(port, HOST)
  await once(server, 'listening')
  return server
}
