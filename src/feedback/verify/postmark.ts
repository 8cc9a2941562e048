import { isSameSecret } from '../../same-secret.ts'
import { digestKey } from '../digest-key.ts'
import { field, readJson, textOf } from '../read-json.ts'
import { type Delivery, refused, type Verdict } from './proof.ts'

const BASIC = /^Basic ([A-Za-z0-9+/]{1,2000}={0,2})$/i
const TIMES = ['DeliveredAt', 'BouncedAt', 'ReceivedAt', 'ChangedAt'] as const

/**
 * Postmark signs nothing: the address it calls holds credentials (RFC 7617), `user:password`, which are all the
 * proof there is.
 */
export function verifyPostmark({ header, body }: Delivery, secrets: readonly string[]): Verdict {
  const authorization = header('Authorization')
  if (authorization === undefined) return refused('proof_missing')
  const [, encoded] = BASIC.exec(authorization) ?? []
  if (encoded === undefined) return refused('proof_malformed')
  if (secrets.some((secret) => !secret.includes(':'))) return { kind: 'unchecked', reason: 'secret_unusable' }
  const given = Buffer.from(encoded, 'base64')
  // All of them are compared, so that the time taken does not tell which one was right.
  const isKnown = secrets.filter((secret) => isSameSecret(given, secret)).length > 0
  return isKnown ? { kind: 'proved', eventKey: keyOf(body) } : refused('credentials_wrong')
}

/** Postmark gives its deliveries no id; what cannot be read is its own key. */
function keyOf(body: Buffer): string {
  const json = readJson(body)
  const [type, id, bounce] = ['RecordType', 'MessageID', 'ID'].map((name) => textOf(field(json, name)) ?? '')
  const at = TIMES.map((name) => textOf(field(json, name)) ?? '').join('')
  if (type === undefined || type === '' || id === '' || at === '') return digestKey(body)
  const recipient = textOf(field(json, 'Recipient')) ?? textOf(field(json, 'Email')) ?? ''
  const link = textOf(field(json, 'OriginalLink')) ?? ''
  return digestKey(type, id ?? '', bounce ?? '', at, recipient, link)
}
