import { createHmac, randomBytes } from 'node:crypto'
import type { Clock } from '../../database-clock.ts'
import type { Database } from '../../db/pool.ts'
import { hashesOf } from '../../keys/key-format.ts'
import type { Keyring } from '../../keys/keyring.ts'
import type { Caller } from '../../keys/keys.ts'
import { isSameSecret } from '../../same-secret.ts'
import { readSecret } from '../../secret.ts'

/**
 * Who is signed in. A token names a key and says until when; it is no key, and nothing of it is stored. It is proved by
 * an HMAC over these and the hash of the key's secret, and the key is looked up at each request: a session ends with
 * its key, with the secret it was opened with, or after `SESSION_S`, in every process at once.
 */

/** A working day. */
export const SESSION_S = 12 * 3_600

export type Session = {
  readonly caller: Caller
  readonly expiresAt: Date
  /** What every form of this session carries (and no other site knows). */
  readonly formToken: string
  /** A proof that a text was written for this session. */
  sign(text: string): string
}

export type Sessions = {
  /** A token for whoever brought this key; undefined when the key has ended meanwhile. */
  open(caller: Caller, key: string): Promise<string | undefined>
  read(token: string): Promise<Session | undefined>
}

type SessionDeps = {
  readonly db: Database
  readonly keyring: Pick<Keyring, 'holderOf'>
  readonly clock: Clock
}

/** `<key id>.<seconds since the epoch>.<nonce>.<proof>` */
const TOKEN = /^([a-z0-9]{1,20})\.(\d{1,12})\.([\w-]{22})\.([\w-]{43})$/

export function createSessions({ db, keyring, clock }: SessionDeps): Sessions {
  let secret: Promise<Buffer> | undefined
  // Read when somebody first comes: most processes never show a page. A failure is not kept.
  const keyOf = () => {
    secret ??= readSecret(db, 'dashboard').catch((error: unknown) => {
      secret = undefined
      throw error
    })
    return secret
  }
  return {
    async open({ keyId }, key) {
      const given = hashesOf(key)
      const holder = await keyring.holderOf(keyId)
      const hash = holder?.hashes.find((each) => given.some((text) => isSameSecret(text, each)))
      if (hash === undefined) return undefined
      const expiresAt = Math.floor(clock.now() / 1_000) + SESSION_S
      const named = `${keyId}.${expiresAt}.${randomBytes(16).toString('base64url')}`
      return `${named}.${proofOf(await keyOf(), named, hash)}`
    },
    async read(token) {
      const [whole, keyId = '', expiry = '', nonce = '', proof = ''] = TOKEN.exec(token) ?? []
      const expiresAt = new Date(Number(expiry) * 1_000)
      if (whole === undefined || expiresAt.getTime() <= clock.now()) return undefined
      const holder = await keyring.holderOf(keyId)
      const named = `${keyId}.${expiry}.${nonce}`
      const key = await keyOf()
      const isOurs = holder?.hashes.some((hash) => isSameSecret(proof, proofOf(key, named, hash)))
      if (holder === undefined || isOurs !== true) return undefined
      const sign = (text: string) => digest(key, `text ${token}`, text)
      return { caller: holder.caller, expiresAt, formToken: sign('form'), sign }
    },
  }
}

function proofOf(key: Buffer, named: string, hash: Buffer): string {
  return digest(key, 'session', `${named}.${hash.toString('base64url')}`)
}

/** `purpose` and text cannot run into each other: the first becomes a key of its own. */
function digest(key: Buffer, purpose: string, text: string): string {
  const derived = createHmac('sha256', key).update(`sluice dashboard v1 ${purpose}`).digest()
  return createHmac('sha256', derived).update(text).digest('base64url')
}
