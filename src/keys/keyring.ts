import { sql } from 'kysely'
import type { Database } from '../db/pool.ts'
import { isSameDigest, isSameSecret } from '../same-secret.ts'
import { readKey, sha256 } from './key-format.ts'
import { type Caller, KEY_SCOPES, type StoredKey } from './keys.ts'

/**
 * How long a verdict is remembered, so that not every request asks the database: a key that another process,
 * or psql, revokes or changes works as before for this long.
 */
const REMEMBER_MS = 2_000
const REMEMBER_KEYS = 1_000
const NO_HASH = Buffer.alloc(32)

const BOOTSTRAP: Caller = {
  keyId: 'bootstrap',
  name: 'bootstrap',
  scope: 'full',
  streams: null,
  sender_domains: null,
  expires_at: null,
  rate_limit_per_s: null,
  rate_burst: null,
}

export type KeyringOptions = {
  /** Told the id of every stored key that a request came with, at each request. */
  readonly onUse?: (keyId: string) => void
  readonly now?: () => number
}

type Verdict = {
  readonly keyId: string
  readonly caller: Promise<Caller | undefined>
  until: number
  /** It was right at some time: whoever brings it is no guesser. */
  wasRight: boolean
}

/** Tells whose key a text is; undefined for every text that is not a valid one, whatever is wrong with it. */
export class Keyring {
  readonly #db: Database
  readonly #bootstrapHash: Buffer | undefined
  readonly #onUse: (keyId: string) => void
  readonly #now: () => number
  /** By the digest of the whole key: how long a look-up takes tells nothing about it. Least recently asked first. */
  readonly #verdicts = new Map<string, Verdict>()

  constructor(db: Database, bootstrapKey: string | undefined, options: KeyringOptions = {}) {
    this.#db = db
    this.#bootstrapHash = bootstrapKey === undefined ? undefined : sha256(bootstrapKey)
    this.#onUse = options.onUse ?? (() => undefined)
    this.#now = options.now ?? (() => performance.now())
  }

  /** With `mayAsk` false the database is asked only about keys that were right before. */
  async identify(text: string, { mayAsk } = { mayAsk: true }): Promise<Caller | undefined> {
    const fingerprint = sha256(text)
    if (this.#bootstrapHash !== undefined && isSameDigest(fingerprint, this.#bootstrapHash)) {
      return BOOTSTRAP
    }
    const read = readKey(text)
    if (read === undefined) return undefined
    const digest = fingerprint.toString('latin1')
    let verdict = this.#verdicts.get(digest)
    if (!mayAsk && verdict?.wasRight !== true) return undefined
    if (verdict === undefined || verdict.until <= this.#now()) {
      verdict = this.#ask(digest, read, verdict?.wasRight ?? false)
    }
    const caller = await verdict.caller
    if (caller !== undefined) this.#onUse(caller.keyId)
    return caller
  }

  /**
   * Whose key this id is, asked afresh each time: for a session, which knows the id of the key it was opened with and
   * not the key. Undefined once that is revoked or has expired.
   */
  async holderOf(keyId: string): Promise<KeyHolder | undefined> {
    if (keyId === BOOTSTRAP.keyId) {
      return this.#bootstrapHash && { caller: BOOTSTRAP, hashes: [this.#bootstrapHash] }
    }
    const row = await findRow(this.#db, keyId)
    const caller = row && callerOf(row)
    if (row === undefined || caller === undefined) return undefined
    this.#onUse(keyId)
    return { caller, hashes: [row.hash, ...(row.previous_hash === null ? [] : [row.previous_hash])] }
  }

  /** After a change in this process: the next request with this key is judged by what is stored now. */
  forget(keyId: string): void {
    for (const verdict of this.#verdicts.values()) {
      if (verdict.keyId === keyId) verdict.until = 0
    }
  }

  /** Requests that come while it is under way share the answer, which counts from the moment it was asked for. */
  #ask(digest: string, key: { id: string; secret: string }, wasRight: boolean): Verdict {
    const verdict: Verdict = {
      keyId: key.id,
      caller: lookUp(this.#db, key),
      until: this.#now() + REMEMBER_MS,
      wasRight,
    }
    this.#verdicts.delete(digest)
    const [eldest] = this.#verdicts.keys()
    if (this.#verdicts.size >= REMEMBER_KEYS && eldest !== undefined) this.#verdicts.delete(eldest)
    this.#verdicts.set(digest, verdict)
    verdict.caller.then(
      (caller) => {
        verdict.wasRight = caller !== undefined
      },
      // Whoever asked is told; the next one asks again.
      () => {
        if (this.#verdicts.get(digest) === verdict) this.#verdicts.delete(digest)
      },
    )
    return verdict
  }
}

/** Whose key an id is, and the hashes of the secrets that work with it now. */
export type KeyHolder = { readonly caller: Caller; readonly hashes: readonly Buffer[] }

type KeyRow = Omit<StoredKey, 'scope'> & {
  readonly scope: string
  readonly hash: Buffer
  readonly previous_hash: Buffer | null
}

async function lookUp(db: Database, key: { id: string; secret: string }): Promise<Caller | undefined> {
  const row = await findRow(db, key.id)
  const given = sha256(key.secret)
  // Both compared, and also when there is no such row: the time taken must not tell which ids exist.
  const isCurrent = isSameSecret(given, row?.hash ?? NO_HASH)
  const isPrevious = isSameSecret(given, row?.previous_hash ?? NO_HASH)
  return row !== undefined && (isCurrent || isPrevious) ? callerOf(row) : undefined
}

/** What is valid is decided by the clock of the database, which all processes share. */
async function findRow(db: Database, id: string): Promise<KeyRow | undefined> {
  const { rows } = await sql<KeyRow>`/* key.look_up */
    select
      k.id, k.name, k.scope, k.streams, k.sender_domains, k.expires_at, k.rate_limit_per_s, k.rate_burst,
      k.hash,
      case when k.previous_expires_at > now() then k.previous_hash end as previous_hash
    from mail.api_key k
    where k.id = ${id} and k.revoked_at is null and (k.expires_at is null or k.expires_at > now())
  `.execute(db)
  return rows[0]
}

function callerOf(row: KeyRow): Caller | undefined {
  const scope = KEY_SCOPES.find((known) => known === row.scope)
  if (scope === undefined) return undefined
  const { name, streams, sender_domains, expires_at, rate_limit_per_s, rate_burst } = row
  return { keyId: row.id, name, scope, streams, sender_domains, expires_at, rate_limit_per_s, rate_burst }
}
