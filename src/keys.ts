import { hash, randomBytes, timingSafeEqual } from 'node:crypto'
import { crc32 } from 'node:zlib'
import type { Database } from './db/pool.ts'

/**
 * API keys: `sluice_<id>_<secret><checksum>`. The prefix lets secret scanners find a leaked key, the id
 * finds its row, the checksum rejects a typing error without asking the database. Of the secret only its
 * SHA-256 is kept: 32 random bytes need no slow hash.
 */

const KEY = /^sluice_([a-z0-9]{12})_([A-Za-z0-9_-]{43})([0-9a-f]{8})$/
const ALPHABET = 'abcdefghijklmnopqrstuvwxyz0123456789'

export const KEY_SCOPES = ['full', 'send', 'read', 'operate'] as const
export type KeyScope = (typeof KEY_SCOPES)[number]

/** Who a request comes from. */
export type Caller = { readonly keyId: string; readonly name: string; readonly scope: KeyScope }

/** Makes and stores a key; the text is shown this once and cannot be read again. */
export async function createKey(
  db: Database,
  options: { readonly name: string; readonly scope: KeyScope },
): Promise<{ id: string; key: string }> {
  const id = Array.from(randomBytes(12), (byte) => ALPHABET[byte % ALPHABET.length]).join('')
  const secret = randomBytes(32).toString('base64url')
  const key = `sluice_${id}_${secret}${checksum(id, secret)}`
  await db
    .insertInto('mail.api_key')
    .values({ id, name: options.name, scope: options.scope, hash: sha256(secret) })
    .execute()
  return { id, key }
}

export async function hasKeys(db: Database): Promise<boolean> {
  const row = await db
    .selectFrom('mail.api_key')
    .select('id')
    .where('revoked_at', 'is', null)
    .limit(1)
    .executeTakeFirst()
  return row !== undefined
}

/** How long a verdict is remembered, so that not every request asks the database: a revoked key works this long. */
const REMEMBER_MS = 2_000
const REMEMBER_KEYS = 1_000

/** Tells whose key a text is; undefined for every text that is not a valid one, whatever is wrong with it. */
export class Keyring {
  readonly #db: Database
  readonly #bootstrapHash: Buffer | undefined
  readonly #verdicts = new Map<string, { caller: Caller | undefined; until: number }>()

  constructor(db: Database, bootstrapKey: string | undefined) {
    this.#db = db
    this.#bootstrapHash = bootstrapKey === undefined ? undefined : sha256(bootstrapKey)
  }

  async identify(text: string): Promise<Caller | undefined> {
    const fingerprint = sha256(text)
    if (this.#bootstrapHash !== undefined && timingSafeEqual(fingerprint, this.#bootstrapHash)) {
      return { keyId: 'bootstrap', name: 'bootstrap', scope: 'full' }
    }
    // Looked up by its digest: how long that takes tells nothing about the key.
    const digest = fingerprint.toString('latin1')
    const remembered = this.#verdicts.get(digest)
    if (remembered !== undefined && remembered.until > Date.now()) return remembered.caller
    const caller = await this.#lookUp(text)
    if (this.#verdicts.size >= REMEMBER_KEYS) this.#verdicts.clear()
    this.#verdicts.set(digest, { caller, until: Date.now() + REMEMBER_MS })
    return caller
  }

  async #lookUp(text: string): Promise<Caller | undefined> {
    const [, id = '', secret = '', check = ''] = KEY.exec(text) ?? []
    if (id === '' || checksum(id, secret) !== check) return undefined
    const row = await this.#db
      .selectFrom('mail.api_key')
      .select(['id', 'name', 'scope', 'hash', 'expires_at', 'revoked_at'])
      .where('id', '=', id)
      .executeTakeFirst()
    // Compared also when there is no such row: the time taken must not tell which ids exist.
    const isRight = timingSafeEqual(sha256(secret), row?.hash ?? Buffer.alloc(32))
    if (row === undefined || !isRight || row.revoked_at !== null) return undefined
    if (row.expires_at !== null && row.expires_at.getTime() <= Date.now()) return undefined
    const scope = KEY_SCOPES.find((known) => known === row.scope)
    return scope === undefined ? undefined : { keyId: row.id, name: row.name, scope }
  }
}

function sha256(text: string): Buffer {
  return hash('sha256', text, 'buffer')
}

function checksum(id: string, secret: string): string {
  return crc32(`${id}_${secret}`).toString(16).padStart(8, '0')
}
