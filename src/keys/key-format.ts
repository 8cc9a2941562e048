import { hash, randomBytes } from 'node:crypto'
import { crc32 } from 'node:zlib'

/**
 * API keys: `sluice_<id>_<secret><checksum>`. The prefix lets secret scanners find a leaked key, the id
 * finds its row, the checksum rejects a typing error without asking the database. Of the secret only its
 * SHA-256 is kept: 32 random bytes need no slow hash.
 */

const KEY = /^sluice_([a-z0-9]{12})_([A-Za-z0-9_-]{43})([0-9a-f]{8})$/
const ID = /^[a-z0-9]{12}$/
const ALPHABET = 'abcdefghijklmnopqrstuvwxyz0123456789'

export function newKeyId(): string {
  return Array.from(randomBytes(12), (byte) => ALPHABET[byte % ALPHABET.length]).join('')
}

/** A key for this id with a secret of its own, and the hash to store. */
export function newSecret(id: string): { key: string; hash: Buffer } {
  const secret = randomBytes(32).toString('base64url')
  return { key: `sluice_${id}_${secret}${checksum(id, secret)}`, hash: sha256(secret) }
}

/** The parts of a text that is a key in form; undefined for every other. */
export function readKey(text: string): { id: string; secret: string } | undefined {
  const [, id = '', secret = '', check = ''] = KEY.exec(text) ?? []
  return id !== '' && checksum(id, secret) === check ? { id, secret } : undefined
}

export function isKeyId(text: string): boolean {
  return ID.test(text)
}

export function sha256(text: string): Buffer {
  return hash('sha256', text, 'buffer')
}

/** The hashes that a text can be stored under: its secret's when it is a key in form, its own as the bootstrap key. */
export function hashesOf(text: string): Buffer[] {
  const read = readKey(text)
  return read === undefined ? [sha256(text)] : [sha256(read.secret), sha256(text)]
}

function checksum(id: string, secret: string): string {
  return crc32(`${id}_${secret}`).toString(16).padStart(8, '0')
}
