import { type Context, Hono, type MiddlewareHandler } from 'hono'
import { ApiError } from '../errors.ts'
import { WEBHOOK_KINDS, type WebhookKind } from '../webhook-kinds.ts'
import type { AppDeps } from './deps.ts'

/** SNS sends up to 256 KiB, SendGrid batches of events of some hundred KiB. */
export const MAX_WEBHOOK_BYTES = 1_024 * 1_024

const NAME = /^[a-z0-9_-]{1,64}$/

/**
 * `POST /webhooks/:kind/:endpoint`: where providers tell what became of mail. There is no API key; each kind has a
 * proof of its own, over the raw bytes. Which part of a proof was wrong is for the operator to know, not the sender.
 */
export function webhookRoutes(deps: Pick<AppDeps, 'receiveWebhook'>, limitBody: MiddlewareHandler): Hono {
  const routes = new Hono()
  for (const kind of WEBHOOK_KINDS) {
    routes.post(`/${kind}/:endpoint`, limitBody, (c) => receive(deps, kind, c.req.param('endpoint'), c))
  }
  // A kind that is mistyped must not be asked for an API key, as what else is below /webhooks is.
  routes.post('/:kind/:endpoint', () => {
    throw noSuchEndpoint()
  })
  return routes
}

async function receive(
  { receiveWebhook }: Pick<AppDeps, 'receiveWebhook'>,
  kind: WebhookKind,
  endpoint: string,
  c: Context,
): Promise<Response> {
  if (!NAME.test(endpoint)) throw noSuchEndpoint()
  const body = Buffer.from(await c.req.arrayBuffer())
  const receipt = await receiveWebhook(kind, endpoint, { header: (name) => c.req.header(name), body })
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
