import { type Context, Hono } from 'hono'
import type { ByteClaim, ByteRoom } from '../byte-room.ts'
import { ApiError } from '../errors.ts'
import { addressOf } from './auth.ts'
import { PATIENCE, tooMany } from './body-limit.ts'
import { readPieces } from './body-pieces.ts'
import type { AppDeps } from './deps.ts'
import type { FailedAttempts } from './failed-attempts.ts'
import { answer, headerOf, receive } from './webhooks.ts'

/** A bounce may return all of the mail. */
const MAX_MAIL_BYTES = 10 * 1_024 * 1_024
/** Verdicts and the header of the returned mail come before its body. */
const KEPT_BYTES = 256 * 1_024

const BEARER = /^Bearer ([\x21-\x7e]{1,512})$/i
/** The source that is there from the start. */
const DEFAULT_SOURCE = 'dsn'

type Deps = Pick<AppDeps, 'receiveWebhook' | 'keyring'> & {
  readonly failures: FailedAttempts
  /** Of all that strangers hold here at once. */
  readonly room: ByteRoom
}

/**
 * `POST /webhooks/dsn` and `/webhooks/dsn/:endpoint`: bounces and complaints as mail, as an MTA's pipe or an inbound
 * route hands them over, whatever the content type. Let in by the source's credentials or an API key that may
 * operate. Whoever hands mail over cannot mend it, so all of it is taken; what cannot be read is parked.
 */
export function mailReportRoutes(deps: Deps): Hono {
  const routes = new Hono()
  routes.post('/', (c) => take(deps, DEFAULT_SOURCE, c))
  routes.post('/:endpoint', (c) => take(deps, c.req.param('endpoint'), c))
  return routes
}

async function take(deps: Deps, endpoint: string, c: Context): Promise<Response> {
  const { failures, room } = deps
  const isVouchedFor = await hasOperatingKey(deps, c)
  // What is kept while the rest arrives is a stranger's, until its credentials are looked at.
  const claim = room.open()
  try {
    const body = await readStart(c, claim)
    const receipt = await receive(deps, 'dsn', endpoint, { header: headerOf(c), body, isVouchedFor })
    // Guessing keys here counts as it does anywhere else.
    if (receipt === 'refused' && BEARER.test(c.req.header('Authorization') ?? '')) failures.note(addressOf(c))
    return answer(c, receipt)
  } finally {
    claim.release()
  }
}

async function hasOperatingKey(
  { keyring, failures }: Pick<Deps, 'keyring' | 'failures'>,
  c: Context,
): Promise<boolean> {
  const [, key] = BEARER.exec(c.req.header('Authorization') ?? '') ?? []
  if (key === undefined) return false
  const mayAsk = failures.retryAfterS(addressOf(c)) === undefined
  const caller = await keyring.identify(key, { mayAsk })
  return caller?.scope === 'full' || caller?.scope === 'operate'
}

/**
 * The part that is kept. The rest is read as well, and thrown away as it comes: a sender that is cut off while it
 * writes gets no answer.
 */
async function readStart(c: Context, claim: ByteClaim): Promise<Buffer> {
  if (Number(c.req.header('Content-Length') ?? 0) > MAX_MAIL_BYTES) throw tooLarge()
  const kept: Uint8Array[] = []
  let size = 0
  for await (const chunk of readPieces(c.req.raw, PATIENCE)) {
    if (size < KEPT_BYTES) {
      const part = chunk.subarray(0, KEPT_BYTES - size)
      if (!claim.take(part.byteLength)) throw tooMany()
      kept.push(part)
    }
    size += chunk.byteLength
    if (size > MAX_MAIL_BYTES) throw tooLarge()
  }
  return Buffer.concat(kept)
}

function tooLarge(): ApiError {
  return new ApiError(
    'payload_too_large',
    `The mail is larger than ${MAX_MAIL_BYTES} bytes; its first ${KEPT_BYTES} are enough.`,
  )
}
