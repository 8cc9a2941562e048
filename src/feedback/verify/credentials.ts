import { isSameSecret } from '../../same-secret.ts'
import { digestKey } from '../digest-key.ts'
import { type Delivery, refused, type Verdict } from './proof.ts'

const AUTHORIZATION = /^(Basic|Bearer) ([\x21-\x7e]{1,2000})$/i

/**
 * Who hands over a mail (an MTA's pipe, an inbound route) signs nothing: credentials are all the proof there is.
 * `user:password` is for Basic (RFC 7617), anything else for Bearer (RFC 6750).
 */
export function verifyCredentials({ header, body }: Delivery, secrets: readonly string[]): Verdict {
  const authorization = header('Authorization')
  if (authorization === undefined) return refused('proof_missing')
  const [, scheme = '', value] = AUTHORIZATION.exec(authorization) ?? []
  if (value === undefined) return refused('proof_malformed')
  const isBasic = scheme.toLowerCase() === 'basic'
  const given = isBasic ? Buffer.from(value, 'base64') : value
  // All of them are compared, so that the time taken does not tell which one was right.
  const fitting = secrets.filter((secret) => isSameSecret(given, secret) && secret.includes(':') === isBasic)
  return fitting.length > 0 ? provedMail(body) : refused('credentials_wrong')
}

/** A mail has no id that its writer could not choose: its bytes are its key. */
export function provedMail(body: Buffer): Verdict {
  return { kind: 'proved', eventKey: digestKey(body) }
}
