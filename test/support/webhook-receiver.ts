import { once } from 'node:events'
import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { eventually } from './eventually.ts'
import type { Scope } from './scope.ts'

export type ReceivedWebhook = {
  readonly path: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
  readonly event: {
    readonly type: string
    readonly created_at: string
    readonly data: Readonly<Record<string, unknown>>
  }
}

/** A status, `hang` to leave it without an answer, or whatever is to be done with the answer. */
export type WebhookAnswer = number | 'hang' | ((response: ServerResponse) => void)

export type WebhookReceiver = {
  readonly url: string
  /** For SLUICE_WEBHOOK_HOSTS. */
  readonly host: string
  readonly received: readonly ReceivedWebhook[]
  waitFor(count: number): Promise<readonly ReceivedWebhook[]>
}

/** The app's side on loopback: keeps what it is told, and answers 200 unless told otherwise. Stops with the test. */
export async function startWebhookReceiver(
  t: Pick<Scope, 'after'>,
  answer: (webhook: ReceivedWebhook, count: number) => WebhookAnswer = () => 200,
): Promise<WebhookReceiver> {
  const received: ReceivedWebhook[] = []
  const server = createServer(async (request, response) => {
    const body = await text(request)
    const headers = Object.fromEntries(
      Object.entries(request.headers).map(([name, value]) => [name, String(value)]),
    )
    const webhook = { path: request.url ?? '', headers, body, event: JSON.parse(body) }
    received.push(webhook)
    const verdict = answer(webhook, received.length)
    if (typeof verdict === 'function') verdict(response)
    else if (verdict !== 'hang') response.writeHead(verdict).end('noted')
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  const host = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return {
    url: `${host}/hook`,
    host,
    received,
    waitFor: (count) =>
      eventually(`${count} webhooks arrive`, async () => received.length >= count && received, 30_000),
  }
}
