import type { Context } from 'hono'
import { keepAttachments } from '../attachment-store.ts'
import { ApiError, type Problem } from '../errors.ts'
import type { Caller } from '../keys/keys.ts'
import type { Door } from '../message/message-shape.ts'
import { NO_KEYS } from '../sealer.ts'
import { withoutContents } from './attachments.ts'
import type { AuthEnv } from './auth.ts'
import { checkJsonHeaders } from './body.ts'
import { readPieces } from './body-pieces.ts'
import { BulkReader } from './bulk-reader.ts'
import { isObject, mergeRecipient } from './bulk-recipient.ts'
import { BulkSlots } from './bulk-slots.ts'
import type { AppDeps, BulkLimits, ManySubmissions, Submission } from './deps.ts'
import { fingerprintsOf, type SealedContents } from './sensitive.ts'
import {
  asApiError,
  Fingerprint,
  problemAt,
  readIdempotencyKey,
  readSubmission,
  readValidation,
  type Validation,
} from './submission.ts'

/**
 * `POST /emails/bulk`: one message to up to 10,000 recipients, one mail each. The body is read, checked and stored
 * as it arrives, in one transaction that commits at its end: all or none, in memory that does not grow with it.
 */

const MAX_RECIPIENTS = 10_000
const MAX_LISTED_ERRORS = 100
const CHUNK_ROWS = 500
const CHUNK_CHARS = 4 * 1_024 * 1_024
/** Each mail is stored whole: so many times the body's limit may become of one body. */
const MAX_EXPANSION = 16
/** Newsletters are what comes in such numbers. */
const BULK_STREAM = 'marketing'
/** Stands for the recipients while the message is checked by itself. */
const ANYBODY = 'anybody@example.com'

export function createBulkSender(deps: AppDeps): (c: Context<AuthEnv>) => Promise<Response> {
  const slots = new BulkSlots()
  return async function sendBulk(c) {
    deps.admit()
    checkJsonHeaders(c)
    try {
      refuseDeclaredLength(c, deps.bulk)
      return await receive(deps, slots, c)
    } catch (error) {
      // The rest of the body is not read: the sender must not take it for heard, nor the connection for free.
      c.header('Connection', 'close')
      throw error
    }
  }
}

async function receive(deps: AppDeps, slots: BulkSlots, c: Context<AuthEnv>): Promise<Response> {
  const key = readIdempotencyKey(c)
  const bulk = new Bulk(deps, {
    caller: c.get('caller'),
    validation: readValidation(c),
    isKeyed: key !== null,
  })
  const leave = await slots.enter(deps.bulk)
  if (leave === undefined) throw tooManyAtOnce(deps.bulk.slots)
  try {
    const accepted = await deps.acceptMany({ key, chunks: bulk.chunksOf(c), seal: () => bulk.seal() })
    c.header('Sluice-Durability', 'durable')
    if (accepted.isReplay) c.header('Idempotent-Replayed', 'true')
    const { ids, answer } = accepted
    return c.json({ object: 'bulk', accepted: ids.length, data: ids.map((id) => ({ id })), ...answer })
  } finally {
    leave()
  }
}

function refuseDeclaredLength(c: Context, { maxBytes }: BulkLimits): void {
  if (Number(c.req.header('Content-Length') ?? 0) > maxBytes) throw bodyTooLarge(maxBytes)
}

type Given = { readonly caller: Caller; readonly validation: Validation; readonly isKeyed: boolean }

/** One bulk while it comes in. */
class Bulk {
  readonly #deps: AppDeps
  readonly #given: Given
  readonly #fingerprint: Fingerprint
  readonly #errors: { index: number; message: string }[] = []
  #message: Record<string, unknown> | undefined
  /** Once the message was read, if it is sensitive. */
  #sealedContents: SealedContents | undefined
  #recipients = 0
  #rejected = 0
  #chars = 0

  constructor(deps: AppDeps, given: Given) {
    this.#deps = deps
    this.#given = given
    this.#fingerprint = new Fingerprint('bulk', given.validation)
  }

  async *chunksOf(c: Context): AsyncGenerator<Submission[]> {
    const { bulk, maxBodyBytes } = this.#deps
    const reader = new BulkReader(maxBodyBytes)
    let chunk: Submission[] = []
    let chars = 0
    let bytes = 0
    for await (const piece of readPieces(c.req.raw, bulk)) {
      bytes += piece.length
      if (bytes > bulk.maxBytes) throw bodyTooLarge(bulk.maxBytes)
      for (const part of reader.write(piece)) {
        if (this.#given.isKeyed) this.#fingerprint.add(part.value)
        const row =
          part.kind === 'message' ? await this.#readMessage(part.value) : this.#readRecipient(part.value)
        if (row === undefined) continue
        chunk.push(row)
        chars += row.message.length
        if (chunk.length < CHUNK_ROWS && chars < CHUNK_CHARS) continue
        yield chunk
        chunk = []
        chars = 0
      }
    }
    reader.end()
    this.#checkWhole()
    if (chunk.length > 0) yield chunk
  }

  seal(): ReturnType<ManySubmissions['seal']> {
    const isStrict = this.#given.validation === 'strict'
    const answer = isStrict ? null : { rejected: this.#rejected, errors: this.#errors }
    const { sealer = NO_KEYS } = this.#deps
    const isSensitive = this.#sealedContents !== undefined
    return { ...fingerprintsOf(sealer, this.#fingerprint.digest(), isSensitive), answer }
  }

  async #readMessage(value: unknown): Promise<undefined> {
    if (!isObject(value)) {
      throw new ApiError('validation_error', 'Invalid `message`: use an object, an email without `to`.')
    }
    for (const field of ['to', 'cc', 'bcc']) {
      if (!Object.hasOwn(value, field)) continue
      const whose = field === 'bcc' ? 'leave it out' : 'give it with each of the `recipients`'
      throw new ApiError('validation_error', `Invalid \`message.${field}\`: ${whose}.`)
    }
    const read = this.#submissionOf({ ...value, to: ANYBODY }, 'rest')
    if (!read.ok) throw asApiError(problemAt('message', read.problem))
    this.#deps.admit(read.stream)
    // Once for all recipients: the message of each names them.
    await keepAttachments(this.#deps.db, read.contents)
    this.#message = withoutContents(value, read.submission.parsed)
    this.#sealedContents = read.sealedContents
  }

  #readRecipient(value: unknown): Submission | undefined {
    const index = this.#recipients
    this.#recipients += 1
    if (index >= MAX_RECIPIENTS) {
      throw new ApiError(
        'validation_error',
        `Invalid \`recipients\`: there are more than ${MAX_RECIPIENTS}; use at most ${MAX_RECIPIENTS} in one request.`,
      )
    }
    const merged = mergeRecipient(this.#message ?? {}, value)
    const read = merged.ok ? this.#submissionOf(merged.body, 'row') : merged
    if (!read.ok) return this.#reject(index, read.problem)
    this.#chars += read.submission.message.length
    if (this.#chars > this.#deps.bulk.maxBytes * MAX_EXPANSION) throw growsTooLarge(this.#deps.bulk.maxBytes)
    return read.submission
  }

  #submissionOf(body: unknown, door: Door) {
    return readSubmission(this.#deps, body, {
      caller: this.#given.caller,
      idempotencyKey: null,
      defaultStream: BULK_STREAM,
      door,
      sealedContents: this.#sealedContents,
    })
  }

  #reject(index: number, problem: Problem): undefined {
    const { field = '' } = problem
    // Its variables are its own; in the mail they stand in the template.
    const own = field.replace(/^template\.variables/, 'variables')
    const asGiven = { ...problem, field: own, message: problem.message.replace(field, () => own) }
    const placed = problemAt(`recipients[${index}]`, asGiven)
    if (this.#given.validation === 'strict') throw asApiError(placed)
    this.#rejected += 1
    if (this.#errors.length < MAX_LISTED_ERRORS) this.#errors.push({ index, message: placed.message })
  }

  #checkWhole(): void {
    if (this.#message === undefined) {
      throw new ApiError(
        'missing_required_field',
        'Missing `message`: it is required; use an email without `to`.',
      )
    }
    if (this.#recipients === 0) {
      throw new ApiError(
        'missing_required_field',
        'Missing `recipients`: it is required; use a list of 1 to 10000 objects with `to`.',
      )
    }
  }
}

function bodyTooLarge(maxBytes: number): ApiError {
  return new ApiError(
    'payload_too_large',
    `The request body is larger than ${maxBytes} bytes, the limit set by SLUICE_MAX_BULK_BYTES.`,
  )
}

function growsTooLarge(maxBytes: number): ApiError {
  return new ApiError(
    'payload_too_large',
    `The message times its recipients is larger than ${maxBytes * MAX_EXPANSION} bytes: keep its content in a stored template, or use several requests.`,
  )
}

function tooManyAtOnce(slots: number): ApiError {
  return new ApiError(
    'rate_limit_exceeded',
    `This process is receiving ${slots} bulk requests already. Repeat the request a little later.`,
    { retryAfterS: 5 },
  )
}
