import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Scene } from './run.ts'

export type HookCall = {
  readonly id: string
  /** What its signature says of the time, in milliseconds. */
  readonly signedAt: number
  readonly at: number
}

/** An app that is told of events: it refuses the first attempt of each, and notes every one. */
export async function startHookSink(
  scene: Scene,
): Promise<{ readonly origin: string; readonly calls: readonly HookCall[] }> {
  const calls: HookCall[] = []
  const server = createServer((request, response) => {
    const { 'webhook-id': id, 'webhook-timestamp': timestamp } = request.headers
    const isFirst = !calls.some((call) => call.id === id)
    calls.push({ id: String(id), signedAt: Number(timestamp) * 1_000, at: Date.now() })
    request.resume().once('end', () => response.writeHead(isFirst ? 500 : 200).end())
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  scene.after(() => {
    server.closeAllConnections()
    server.close()
  })
  return { origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, calls }
}
