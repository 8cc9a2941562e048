import { createHmac } from 'node:crypto'
import { z } from 'zod'
import { isSameSecret } from '../../same-secret.ts'
import { digestKey } from '../digest-key.ts'
import { readJson } from '../read-json.ts'
import { type Delivery, isFresh, readSeconds, refused, type Verdict } from './proof.ts'

/**
 * Mailgun repeats for eight hours, and its documentation warns of delays. A token counts once, whatever its age,
 * because stored deliveries are kept far longer than this.
 */
const TOLERANCE = { pastS: 86_400, futureS: 600 }

const Signed = z.object({
  signature: z.object({
    timestamp: z.union([z.string(), z.int().transform(String)]),
    token: z.string().min(1).max(200),
    signature: z.string(),
    // With the parent account's key, for what happens in a subaccount.
    'parent-signature': z.string().optional(),
  }),
})

/**
 * Mailgun, "Securing Webhooks": HMAC-SHA256 of timestamp and token, in the body itself. The rest of the body is NOT
 * signed: that a token counts once is what keeps an observed one from being used with another body.
 */
export function verifyMailgun({ body }: Delivery, secrets: readonly string[], nowMs: number): Verdict {
  const read = Signed.safeParse(readJson(body))
  if (!read.success) return refused('proof_malformed')
  const { timestamp, token, signature, 'parent-signature': parent } = read.data.signature
  const seconds = readSeconds(timestamp)
  if (seconds === undefined) return refused('proof_malformed')
  if (!isFresh(seconds * 1_000, nowMs, TOLERANCE)) return refused('timestamp_outside_tolerance')
  const isSigned = secrets.some((secret) => {
    const expected = createHmac('sha256', secret).update(timestamp).update(token).digest('hex')
    return isSameSecret(signature, expected) || (parent !== undefined && isSameSecret(parent, expected))
  })
  // Timestamp and token are signed as one string: only together do they tell two deliveries apart.
  return isSigned ? { kind: 'proved', eventKey: digestKey(timestamp + token) } : refused('signature_wrong')
}
