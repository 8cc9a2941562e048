import { createCipheriv, createDecipheriv, createHmac, randomBytes } from 'node:crypto'

/**
 * Encrypts the content of sensitive mail: AES-256-GCM (NIST SP 800-38D), a random nonce of 96 bits each time. What is
 * sealed opens only for the message and the purpose it was sealed for, so that one ciphertext cannot stand in for another.
 */

/** `id` is stored with all that the key seals; it tells which keys are still needed. */
export type EncryptionKey = { readonly id: string; readonly bytes: Buffer }

/** `content` is what a message keeps secret, `prepared` what was rendered of it, `row` a message as it was handed in. */
export const SEALED_PARTS = ['content', 'prepared', 'row'] as const
export type SealedPart = (typeof SEALED_PARTS)[number]

const CIPHER = 'aes-256-gcm'
const NONCE_BYTES = 12
const TAG_BYTES = 16
const KEY_BYTES = 32
const VERSION = 's1'
const KEY_ID = /^[A-Za-z0-9_-]{1,32}$/

/** What sealing adds to bytes. */
export const SEAL_BYTES = NONCE_BYTES + TAG_BYTES

export type SealFault =
  /** Nothing can be sealed: no key is configured. */
  | 'no_encryption_key'
  /** It was sealed with a key that is not configured (any more). */
  | 'encryption_key_missing'
  /** It is not what was sealed for this message. */
  | 'content_damaged'

/** The message names keys by their ids and never quotes content. */
export class SealError extends Error {
  readonly code: SealFault
  /** Whether it opens once the settings are repaired. */
  readonly retryable: boolean

  constructor(code: SealFault, message: string, cause?: unknown) {
    super(message, { cause })
    this.name = 'SealError'
    this.code = code
    this.retryable = code !== 'content_damaged'
  }
}

export const NO_KEY_REASON =
  'no key to encrypt sensitive mail with is configured; set SLUICE_ENCRYPTION_KEYS (npm start -- encryption-key prints one)'

export class Sealer {
  readonly #keys: ReadonlyMap<string, EncryptionKey>
  readonly #first: EncryptionKey | undefined

  /** The first key seals, all of them open. */
  constructor(keys: readonly EncryptionKey[]) {
    this.#first = keys[0]
    this.#keys = new Map(keys.map((key) => [key.id, key]))
  }

  get canSeal(): boolean {
    return this.#first !== undefined
  }

  has(keyId: string): boolean {
    return this.#keys.has(keyId)
  }

  /** Text that names its part and key: `s1.<part>.<key id>.<base64url>`. Throws a SealError when there is no key. */
  seal(part: SealedPart, messageId: string, text: string): string {
    const key = this.#first
    if (key === undefined) throw new SealError('no_encryption_key', `It cannot be stored: ${NO_KEY_REASON}.`)
    const sealed = sealWith(key.bytes, Buffer.from(text), contextOf(part, key.id, messageId))
    return `${VERSION}.${part}.${key.id}.${sealed.toString('base64url')}`
  }

  /** Throws a SealError. */
  open(messageId: string, sealed: string): { readonly part: SealedPart; readonly text: string } {
    const [version, partName, keyId = '', body, ...rest] = sealed.split('.')
    const part = SEALED_PARTS.find((each) => each === partName)
    const isOurs = version === VERSION && part !== undefined && KEY_ID.test(keyId) && rest.length === 0
    if (!isOurs || body === undefined) throw damaged()
    const key = this.#keys.get(keyId)
    if (key === undefined) throw keyMissing(keyId)
    const context = contextOf(part, keyId, messageId)
    return { part, text: openWith(key.bytes, Buffer.from(body, 'base64url'), context).toString() }
  }

  /**
   * What makes two requests the same, so that it cannot be found by guessing at their content: one for each key, that
   * of the first key first. A digest made before a rotation is still among them after it.
   */
  digestsOf(fingerprint: Buffer): Buffer[] {
    return [...this.#keys.values()].map(({ bytes }) =>
      createHmac('sha256', bytes).update('sluice fingerprint\n').update(fingerprint).digest(),
    )
  }
}

/** For whoever has no keys: nothing can be sealed, and nothing opened. */
export const NO_KEYS = new Sealer([])

/** Bytes of an attachment, and the key of its own that opens them. */
export type SealedBytes = { readonly bytes: Buffer; readonly key: string }

/**
 * Under a random key that only the sealed content of its messages holds: where those are gone, nobody can read the bytes,
 * wherever copies of them are left.
 */
export function sealBytes(bytes: Buffer): SealedBytes {
  const key = randomBytes(KEY_BYTES)
  return { bytes: sealWith(key, bytes, ATTACHMENT), key: key.toString('base64') }
}

/** Throws a SealError. */
export function openBytes(sealed: Buffer, key: string): Buffer {
  return openWith(Buffer.from(key, 'base64'), sealed, ATTACHMENT)
}

const ATTACHMENT = Buffer.from('sluice attachment')

function contextOf(part: SealedPart, keyId: string, messageId: string): Buffer {
  return Buffer.from(`sluice ${VERSION} ${part} ${keyId} ${messageId.toLowerCase()}`)
}

/** Nonce, ciphertext and tag, in one buffer. */
function sealWith(key: Buffer, plain: Buffer, context: Buffer): Buffer {
  const nonce = randomBytes(NONCE_BYTES)
  const cipher = createCipheriv(CIPHER, key, nonce).setAAD(context)
  return Buffer.concat([nonce, cipher.update(plain), cipher.final(), cipher.getAuthTag()])
}

function openWith(key: Buffer, sealed: Buffer, context: Buffer): Buffer {
  if (sealed.length < SEAL_BYTES || key.length !== KEY_BYTES) throw damaged()
  const nonce = sealed.subarray(0, NONCE_BYTES)
  const body = sealed.subarray(NONCE_BYTES, -TAG_BYTES)
  const decipher = createDecipheriv(CIPHER, key, nonce, { authTagLength: TAG_BYTES })
    .setAAD(context)
    .setAuthTag(sealed.subarray(-TAG_BYTES))
  try {
    return Buffer.concat([decipher.update(body), decipher.final()])
  } catch (cause) {
    throw damaged(cause)
  }
}

function damaged(cause?: unknown): SealError {
  return new SealError(
    'content_damaged',
    'What is stored of this message is not what was encrypted for it, so it cannot be read.',
    cause,
  )
}

function keyMissing(keyId: string): SealError {
  return new SealError(
    'encryption_key_missing',
    `It was encrypted with key \`${keyId}\`, which SLUICE_ENCRYPTION_KEYS of this process does not list. Add that key, then retry.`,
  )
}

/**
 * Reads `id:base64,id:base64,…`; each key has 32 bytes.
 *
 * @throws Error that says what is wrong, without the keys
 */
export function parseEncryptionKeys(text: string): EncryptionKey[] {
  const keys = text.split(',').map((entry, index) => parseKey(entry.trim(), index + 1))
  const twice = keys.find(({ id }, index) => keys.findIndex((other) => other.id === id) < index)
  if (twice !== undefined) throw new Error(`has the key id \`${twice.id}\` twice; each key needs its own`)
  return keys
}

function parseKey(entry: string, place: number): EncryptionKey {
  const [id = '', encoded = ''] = entry.split(/:(.*)/s)
  if (!KEY_ID.test(id)) {
    throw new Error(
      `must be id:key, comma-separated; the id of key ${place} must have 1 to 32 letters, digits, _ or -`,
    )
  }
  const bytes = Buffer.from(encoded, 'base64')
  if (bytes.length !== KEY_BYTES || !/^[A-Za-z0-9+/]{43}=?$/.test(encoded)) {
    throw new Error(
      `must have ${KEY_BYTES} bytes in base64 for key \`${id}\`; npm start -- encryption-key prints one`,
    )
  }
  return { id, bytes }
}

/** A new key as SLUICE_ENCRYPTION_KEYS takes it; its id tells the day it was made. */
export function newEncryptionKey(now: Date): string {
  const day = now.toISOString().slice(0, 10).replaceAll('-', '')
  return `k${day}-${randomBytes(2).toString('hex')}:${randomBytes(KEY_BYTES).toString('base64')}`
}
