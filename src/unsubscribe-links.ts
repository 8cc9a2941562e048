import { createCipheriv, createDecipheriv, createHmac } from 'node:crypto'
import { isSameSecret } from './same-secret.ts'

/** Who unsubscribes from what, and the message that offered it. */
export type Unsubscription = {
  readonly messageId: string
  readonly stream: string
  /** Lower case, as `mail.suppression` has it. */
  readonly address: string
}

export type UnsubscribeLinks = {
  /** Undefined where no public URL is set. The same on every attempt. */
  urlOf(unsubscription: Unsubscription): string | undefined
  /** Undefined for every token that this service did not make. */
  read(token: string): Unsubscription | undefined
}

/** Where links lead, below the public URL. */
export const UNSUBSCRIBE_PATH = '/u'

/** A path, the longest stream and the longest address come to 462. */
const MAX_TOKEN_CHARS = 600
const TAG_BYTES = 16
const ID_BYTES = 16
const CIPHER = 'aes-256-ctr'

/**
 * Links that unsubscribe one recipient of one message, and nobody else.
 *
 * A token holds all that is needed, so it works when the message is long gone, and shows nothing of it. It is
 * encrypted under a tag that is also its proof (the SIV construction of RFC 5297, with HMAC-SHA256 in the place of its
 * CMAC): the same unsubscription always gives the same token, which every attempt to send a message relies on.
 */
export function createUnsubscribeLinks(secret: Buffer, publicUrl: string | undefined): UnsubscribeLinks {
  const keys: Keys = { tag: derive(secret, 'tag'), cipher: derive(secret, 'cipher') }
  return {
    urlOf: (unsubscription) =>
      publicUrl === undefined ? undefined : `${publicUrl}${UNSUBSCRIBE_PATH}/${seal(keys, unsubscription)}`,
    read: (token) => open(keys, token),
  }
}

type Keys = { readonly tag: Buffer; readonly cipher: Buffer }

function derive(secret: Buffer, purpose: string): Buffer {
  return createHmac('sha256', secret).update(`sluice unsubscribe v1 ${purpose}`).digest()
}

function seal(keys: Keys, { messageId, stream, address }: Unsubscription): string {
  const plain = Buffer.concat([
    Buffer.from(messageId.replaceAll('-', ''), 'hex'),
    // Neither a stream's name nor an address has a space.
    Buffer.from(`${stream} ${address}`),
  ])
  const tag = tagOf(keys, plain)
  const cipher = createCipheriv(CIPHER, keys.cipher, tag)
  return Buffer.concat([tag, cipher.update(plain), cipher.final()]).toString('base64url')
}

function open(keys: Keys, token: string): Unsubscription | undefined {
  if (token.length > MAX_TOKEN_CHARS) return undefined
  const bytes = Buffer.from(token, 'base64url')
  // Decoding is lenient; a token has one spelling.
  if (bytes.length <= TAG_BYTES + ID_BYTES || bytes.toString('base64url') !== token) return undefined
  const tag = bytes.subarray(0, TAG_BYTES)
  const decipher = createDecipheriv(CIPHER, keys.cipher, tag)
  const plain = Buffer.concat([decipher.update(bytes.subarray(TAG_BYTES)), decipher.final()])
  if (!isSameSecret(tagOf(keys, plain), tag)) return undefined
  const [stream = '', address = ''] = plain.toString('utf8', ID_BYTES).split(' ')
  return { messageId: uuidOf(plain), stream, address }
}

function tagOf(keys: Keys, plain: Buffer): Buffer {
  return createHmac('sha256', keys.tag).update(plain).digest().subarray(0, TAG_BYTES)
}

function uuidOf(bytes: Buffer): string {
  return bytes.toString('hex', 0, ID_BYTES).replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
}
