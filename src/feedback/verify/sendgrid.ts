import { createPublicKey, createVerify, type KeyObject } from 'node:crypto'
import { digestKey } from '../digest-key.ts'
import { type Delivery, isFresh, readSeconds, refused, type Verdict } from './proof.ts'

/** Not documented by SendGrid; its signed examples are seconds old. */
const TOLERANCE = { pastS: 600, futureS: 600 }
/** A DER signature over P-256 has at most 72 bytes. */
const SIGNATURE = /^[A-Za-z0-9+/]{1,100}={0,2}$/

/**
 * SendGrid's Signed Event Webhook: ECDSA over P-256 and SHA-256 of timestamp and body, the public key in base64 (SPKI):
 * twilio.com/docs/sendgrid/for-developers/tracking-events/getting-started-event-webhook-security-features
 */
export function verifySendGrid(
  { header, body }: Delivery,
  secrets: readonly string[],
  nowMs: number,
): Verdict {
  const timestamp = header('X-Twilio-Email-Event-Webhook-Timestamp')
  const signature = header('X-Twilio-Email-Event-Webhook-Signature')
  if (timestamp === undefined || signature === undefined) return refused('proof_missing')
  const seconds = readSeconds(timestamp)
  if (seconds === undefined || !SIGNATURE.test(signature)) return refused('proof_malformed')
  if (!isFresh(seconds * 1_000, nowMs, TOLERANCE)) return refused('timestamp_outside_tolerance')
  const keys = secrets.map(readKey)
  if (keys.includes(undefined)) return { kind: 'unchecked', reason: 'secret_unusable' }
  const der = Buffer.from(signature, 'base64')
  const isSigned = keys.some(
    (key) =>
      key !== undefined &&
      createVerify('sha256').update(timestamp).update(body).verify({ key, dsaEncoding: 'der' }, der),
  )
  // A delivery has no id, and many events with one each: a second delivery of these bytes is a repeat.
  return isSigned ? { kind: 'proved', eventKey: digestKey(body) } : refused('signature_wrong')
}

function readKey(secret: string): KeyObject | undefined {
  try {
    const key = createPublicKey({ key: Buffer.from(secret, 'base64'), format: 'der', type: 'spki' })
    return key.asymmetricKeyDetails?.namedCurve === 'prime256v1' ? key : undefined
  } catch {
    // Whatever OpenSSL says of it: the variable does not hold a public key.
    return undefined
  }
}
