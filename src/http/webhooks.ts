import { type Context, Hono, type MiddlewareHandler } from 'hono'
import { ApiError } from '../errors.ts'
import { WEBHOOK_KINDS, type WebhookKind } from '../webhook-kinds.ts'
import type { AppDeps, WebhookCall, WebhookReceipt } from './deps.ts'

/** SNS sends up to 256 KiB, SendGrid batches of events of some hundred KiB. */
export const MAX_WEBHOOK_BYTES = 1_024 * 1_024

const NAME = /^[a-z0-9_-]{1,64}$/

/**
 * `POST /webhooks/:kind/:endpoint`: where providers tell what became of mail. There is no API key; each kind has a
 * proof of its own, over the raw bytes. Which part of a proof was wrong is for the operator to know, not the sender.
 */
export function webhookRoutes(deps: Pick<AppDeps, 'receiveWebhook'>, limitBody: MiddlewareHandler): Hono {
  const routes = new Hono()
  // Mail is larger, and is kept only in part: see mail-reports.ts.
  for (const kind of WEBHOOK_KINDS.filter((each) => each !== 'dsn')) {
    routes.post(`/${kind}/:endpoint`, limitBody, async (c) => {
      const call = { header: headerOf(c), body: Buffer.from(await c.req.arrayBuffer()) }
      return answer(c, await receive(deps, kind, c.req.param('endpoint'), call))
    })
  }
  // A kind that is mistyped must not be asked for an API key, as what else is below /webhooks is.
  routes.post('/:kind/:endpoint', () => {
    throw noSuchEndpoint()
  })
  return routes
}

export function headerOf(c: Context): WebhookCall['header'] {
  return (name) => c.req.header(name)
}

export async function receive(
  { receiveWebhook }: Pick<AppDeps, 'receiveWebhook'>,
  kind: WebhookKind,
  endpoint: string,
  call: WebhookCall,
): Promise<WebhookReceipt> {
  return NAME.test(endpoint) ? receiveWebhook(kind, endpoint, call) : 'no_such_endpoint'
}

export function answer(c: Context, receipt: WebhookReceipt): Response {
  switch (receipt) {
    case 'taken':
      return c.json({ received: true })
    case 'no_such_endpoint':
      throw noSuchEndpoint()
    case 'refused':
      throw new ApiError('invalid_signature', 'The proof of this request is missing, wrong or too old.')
    case 'put_off':
      throw new ApiError('service_unavailable', 'This cannot be taken at the moment. Send it again.', {
        retryAfterS: 10,
      })
  }
}

function noSuchEndpoint(): ApiError {
  return new ApiError('not_found', 'There is no such webhook endpoint.')
}
