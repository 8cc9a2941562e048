import { type Context, Hono, type MiddlewareHandler } from 'hono'
import { addressOf } from './auth.ts'
import type { AppDeps } from './deps.ts'
import type { FailedAttempts } from './failed-attempts.ts'
import { answer, headerOf, receive } from './webhooks.ts'

/** A bounce may return all of the mail. */
export const MAX_MAIL_BYTES = 10 * 1_024 * 1_024
/** Verdicts and the header of the returned mail come before its body. */
const KEPT_BYTES = 256 * 1_024

const BEARER = /^Bearer ([\x21-\x7e]{1,512})$/i
/** The source that is there from the start. */
const DEFAULT_SOURCE = 'dsn'

type Deps = Pick<AppDeps, 'receiveWebhook' | 'keyring'>

/**
 * `POST /webhooks/dsn` and `/webhooks/dsn/:endpoint`: bounces and complaints as mail, as an MTA's pipe or an inbound
 * route hands them over, whatever the content type. Let in by the source's credentials or an API key that may
 * operate. Whoever hands mail over cannot mend it, so all of it is taken; what cannot be read is parked.
 */
export function mailReportRoutes(deps: Deps, failures: FailedAttempts, limitBody: MiddlewareHandler): Hono {
  const routes = new Hono()
  routes.post('/', limitBody, (c) => take(deps, failures, DEFAULT_SOURCE, c))
  routes.post('/:endpoint', limitBody, (c) => take(deps, failures, c.req.param('endpoint'), c))
  return routes
}

async function take(deps: Deps, failures: FailedAttempts, endpoint: string, c: Context): Promise<Response> {
  const isVouchedFor = await hasOperatingKey(deps, failures, c)
  const body = await readStart(c.req.raw.body)
  const receipt = await receive(deps, 'dsn', endpoint, { header: headerOf(c), body, isVouchedFor })
  // Guessing keys here counts as it does anywhere else.
  if (receipt === 'refused' && BEARER.test(c.req.header('Authorization') ?? '')) failures.note(addressOf(c))
  return answer(c, receipt)
}

async function hasOperatingKey(
  { keyring }: Pick<Deps, 'keyring'>,
  failures: FailedAttempts,
  c: Context,
): Promise<boolean> {
  const [, key] = BEARER.exec(c.req.header('Authorization') ?? '') ?? []
  if (key === undefined) return false
  const mayAsk = failures.retryAfterS(addressOf(c)) === undefined
  const caller = await keyring.identify(key, { mayAsk })
  return caller?.scope === 'full' || caller?.scope === 'operate'
}

/** The rest is read as well: a sender that is cut off while it writes gets no answer. */
async function readStart(body: ReadableStream<Uint8Array> | null): Promise<Buffer> {
  const kept: Uint8Array[] = []
  let size = 0
  for await (const chunk of body ?? []) {
    if (size < KEPT_BYTES) kept.push(chunk.subarray(0, KEPT_BYTES - size))
    size += chunk.byteLength
  }
  return Buffer.concat(kept)
}
