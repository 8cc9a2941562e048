import { createHmac } from 'node:crypto'
import { isSameSecret } from '../../same-secret.ts'
import { type Delivery, isFresh, readSeconds, refused, type Verdict } from './proof.ts'

/** Standard Webhooks, "Verifying webhook authenticity": five minutes either way. */
const TOLERANCE = { pastS: 300, futureS: 300 }
const MAX_ID_CHARS = 256
/** A sender signs once for each of its secrets; a header with more than this is no such thing. */
const MAX_SIGNATURES = 20
const MIN_KEY_BYTES = 16

/**
 * Standard Webhooks (standardwebhooks.com), which Svix and thereby Resend use under header names of their own.
 * Signed is `id.timestamp.body`; any of the signatures may fit any of the secrets, so that either side can
 * replace its own in its own time.
 */
export function verifyStandardWebhook(
  { header, body }: Delivery,
  secrets: readonly string[],
  nowMs: number,
): Verdict {
  const read = (name: string) => header(`webhook-${name}`) ?? header(`svix-${name}`)
  const id = read('id')
  const timestamp = read('timestamp')
  const signature = read('signature')
  if (id === undefined || timestamp === undefined || signature === undefined) return refused('proof_missing')
  const seconds = readSeconds(timestamp)
  if (seconds === undefined || !/^[\x21-\x7e]+$/.test(id) || id.length > MAX_ID_CHARS) {
    return refused('proof_malformed')
  }
  if (!isFresh(seconds * 1_000, nowMs, TOLERANCE)) return refused('timestamp_outside_tolerance')
  const keys = secrets.map(readKey)
  if (keys.includes(undefined)) return { kind: 'unchecked', reason: 'secret_unusable' }
  const given = signature
    .split(' ')
    .slice(0, MAX_SIGNATURES)
    .flatMap((each) => (each.startsWith('v1,') ? [each.slice(3)] : []))
  const isSigned = keys.some((key) => {
    const expected = createHmac('sha256', key ?? '')
      .update(`${id}.${timestamp}.`)
      .update(body)
      .digest('base64')
    return given.some((each) => isSameSecret(each, expected))
  })
  return isSigned ? { kind: 'proved', eventKey: id } : refused('signature_wrong')
}

/** `whsec_` and base64, or the base64 alone. */
function readKey(secret: string): Buffer | undefined {
  const base64 = secret.replace(/^whsec_/, '')
  const key = Buffer.from(base64, 'base64')
  return /^[A-Za-z0-9+/]+={0,2}$/.test(base64) && key.length >= MIN_KEY_BYTES ? key : undefined
}
