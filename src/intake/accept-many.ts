import { reached } from '../crash-point.ts'
import { isDatabaseUnavailable } from '../db/connection-error.ts'
import type { Database } from '../db/pool.ts'
import { SQLSTATE, sqlState } from '../db/sqlstate.ts'
import { inTransaction, type Transaction } from '../db/transaction.ts'
import { ApiError } from '../errors.ts'
import { KEY_HOURS } from './idempotency.ts'
import * as queries from './many-queries.ts'
import type { IntakeRow } from './queries.ts'

/**
 * Acceptance of a batch: rows go to the logged outbox in one transaction, and with them the key that stands for all
 * of them. The commit is the acceptance; the mover takes the rows as it takes those of any SQL writer.
 *
 * If the process dies before the commit, nothing was accepted and the key is free. After it, the repeat of the
 * request finds the key, whichever process it reaches, and gets the same ids. Two requests with one key at the same
 * moment meet at the key's unique index: the second waits for the first's commit, and takes back what it stored.
 */

/** For another request that is committing under the same key. */
const KEY_WAIT_MS = 5_000
/** As the pool has it for everybody. */
const STATEMENT_MS = 25_000
/** More than any sender may take for a body that is stored as it arrives. */
const IDLE_MS = 330_000

export type ManyDeps = { readonly db: Database; readonly wakeMover: () => void }

export type Many = {
  readonly key: string | null
  /** As they come in, in few and large pieces. An error thrown here undoes everything. */
  readonly chunks: AsyncIterable<readonly IntakeRow[]>
  /** Asked when all has come in. */
  readonly seal: () => Sealed
  /** For each statement. Unset: 25 s. */
  readonly timeoutMs?: number
}

type Sealed = {
  /** What makes two requests the same under one key. */
  readonly fingerprint: Buffer
  /** Others that an earlier request may have stored for the same: under another encryption key, or without one. */
  readonly otherFingerprints?: readonly Buffer[]
  /** What the answer says beside the ids; kept with the key for a repeat. */
  readonly answer: object | null
}

export type ManyAccepted = {
  /** In the order given. */
  readonly ids: readonly string[]
  readonly isReplay: boolean
  readonly answer: object | null
}

/**
 * Stores all or nothing, durably. Throws an ApiError: 409 for a key used with another body, or by a request that is
 * not done; 503 when it is not known to be stored.
 */
export async function acceptMany(deps: ManyDeps, many: Many): Promise<ManyAccepted> {
  const chunks = many.chunks[Symbol.asyncIterator]()
  try {
    if (many.key !== null && (await queries.findKey(deps.db, many.key)) !== undefined) {
      return await replay(deps, many, many.key, chunks)
    }
    return await store(deps, many, chunks)
  } catch (error) {
    throw isDatabaseUnavailable(error) ? uncertain(error) : error
  } finally {
    await chunks.return?.()
  }
}

/** Nothing needs to be stored; only what is given shows whether it is the same. */
async function replay(
  deps: ManyDeps,
  many: Many,
  key: string,
  chunks: AsyncIterator<readonly IntakeRow[]>,
): Promise<ManyAccepted> {
  while ((await chunks.next()).done !== true);
  return answerOf(await queries.findKey(deps.db, key), many.seal())
}

async function store(
  deps: ManyDeps,
  many: Many,
  chunks: AsyncIterator<readonly IntakeRow[]>,
): Promise<ManyAccepted> {
  // Before the transaction: what is small has come in whole before it takes a connection.
  const first = await chunks.next()
  // Nothing was accepted, and the key is free for a repaired request.
  if (first.done === true || first.value.length === 0) {
    return { ids: [], isReplay: false, answer: many.seal().answer }
  }
  try {
    const accepted = await inTransaction(deps.db, (trx) => storeChunks(trx, many, first.value, chunks))
    reached('many.committed')
    deps.wakeMover()
    return accepted
  } catch (error) {
    if (error instanceof KeyIsTaken) return answerOf(error.known, many.seal())
    throw error
  }
}

async function storeChunks(
  trx: Transaction,
  many: Many,
  first: readonly IntakeRow[],
  chunks: AsyncIterator<readonly IntakeRow[]>,
): Promise<ManyAccepted> {
  const statementMs = many.timeoutMs ?? STATEMENT_MS
  await queries.limitWaits(trx, { lockMs: KEY_WAIT_MS, statementMs, idleMs: IDLE_MS })
  const ids: string[] = []
  let chunk: readonly IntakeRow[] | undefined = first
  while (chunk !== undefined) {
    await queries.appendToOutbox(trx, chunk)
    for (const { id } of chunk) ids.push(id)
    const next: IteratorResult<readonly IntakeRow[]> = await chunks.next()
    chunk = next.done === true ? undefined : next.value
  }
  const sealed = many.seal()
  if (many.key !== null) await claim(trx, many.key, ids, sealed)
  reached('many.before-commit')
  return { ids, isReplay: false, answer: sealed.answer }
}

/** Last, so that nobody with the same key waits longer than for a commit. Throws KeyIsTaken. */
async function claim(
  trx: Transaction,
  key: string,
  ids: readonly string[],
  { fingerprint, answer }: Sealed,
): Promise<void> {
  try {
    if (await queries.lockKey(trx, key)) throw new KeyIsTaken(undefined)
    if (await queries.claimKey(trx, { key, ids, fingerprint, answer, hoursKept: KEY_HOURS })) return
    throw new KeyIsTaken(await queries.findKey(trx, key))
  } catch (error) {
    throw sqlState(error) === SQLSTATE.lockNotAvailable ? stillRunning(error) : error
  }
}

/** Takes the transaction back: another request was first. */
class KeyIsTaken extends Error {
  /** Undefined: by a single message that the mover has not settled yet. */
  readonly known: queries.KnownKey | undefined

  constructor(known: queries.KnownKey | undefined) {
    super('the key is taken')
    this.known = known
  }
}

function answerOf(
  known: queries.KnownKey | undefined,
  { fingerprint, otherFingerprints = [] }: Sealed,
): ManyAccepted {
  if (
    known !== undefined &&
    [fingerprint, ...otherFingerprints].some((each) => each.equals(known.fingerprint))
  ) {
    return { ids: known.message_ids, isReplay: true, answer: known.answer }
  }
  throw new ApiError(
    'invalid_idempotent_request',
    'This idempotency key was used before with a different request body. Use a new key for new emails.',
  )
}

function stillRunning(cause: unknown): ApiError {
  return new ApiError(
    'concurrent_idempotent_requests',
    'Another request with this idempotency key is not done yet. Repeat this one a little later to get its answer.',
    { retryAfterS: KEY_WAIT_MS / 1_000, cause },
  )
}

function uncertain(cause: unknown): ApiError {
  return new ApiError(
    'service_unavailable',
    'The emails could not be stored durably in time. They may still be sent: repeat the request with the same Idempotency-Key to be sure that they go out once.',
    { retryAfterS: 2, cause },
  )
}
