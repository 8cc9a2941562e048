import { isUtf8 } from 'node:buffer'
import { createHash } from 'node:crypto'
import type { Context } from 'hono'
import { DEFAULT_STREAM, type Stream } from '../catalog.ts'
import { ApiError, type Problem } from '../errors.ts'
import type { Caller } from '../keys/keys.ts'
import { MAX_MESSAGE_BYTES } from '../message/message.ts'
import type { AttachmentContent } from '../message/message-attachments.ts'
import { parseMessage } from '../message/message-schema.ts'
import type { Door } from '../message/message-shape.ts'
import { NO_KEYS } from '../sealer.ts'
import { uuid7 } from '../uuid7.ts'
import { withoutContents } from './attachments.ts'
import type { AppDeps, Submission } from './deps.ts'
import { checkMay } from './permission.ts'
import { isSensitive, noKeyProblem, type SealedContents, sealSubmission } from './sensitive.ts'

const MAX_KEY_LENGTH = 256
const MAX_SOURCE_LENGTH = 200

export type ReadSubmission =
  | {
      readonly ok: true
      readonly submission: Submission
      readonly stream: Stream
      /** The bytes of its attachments, to be kept before the submission is accepted: it only names them. */
      readonly contents: readonly AttachmentContent[]
      /** Of a sensitive one: what stands for those bytes in others that share them. */
      readonly sealedContents?: SealedContents
    }
  | { readonly ok: false; readonly problem: Problem }

export type SubmissionContext = {
  readonly caller: Caller
  readonly idempotencyKey: string | null
  /** The stream of a message that names none. */
  readonly defaultStream?: string
  /** `row` for what we put together ourselves, of parts that were read before. Absent: `rest`. */
  readonly door?: Door
  /** Of a sensitive bulk: its attachments, sealed before. */
  readonly sealedContents?: SealedContents | undefined
}

/**
 * Reads one message as `POST /emails` takes it; what is wrong with it comes back as a problem. Throws an ApiError
 * when the caller's key may not send it, however many others it comes with.
 */
export function readSubmission(
  deps: Pick<AppDeps, 'catalog' | 'clock' | 'messageLimits' | 'sealer'>,
  body: unknown,
  context: SubmissionContext,
): ReadSubmission {
  const { caller, idempotencyKey, defaultStream = DEFAULT_STREAM, door } = context
  const { sealer = NO_KEYS } = deps
  const parsed = parseMessage(body, deps.messageLimits, deps.clock.now(), door)
  if (!parsed.ok) return parsed
  const name = parsed.message.stream ?? defaultStream
  checkMay(caller, parsed.message, name)
  const stream = deps.catalog.current.streams.get(name)
  if (stream === undefined) return { ok: false, problem: noSuchStream(deps, name) }
  const id = uuid7(deps.clock.now())
  const isSecret = isSensitive(parsed.message, stream)
  if (isSecret && !sealer.canSeal) return { ok: false, problem: noKeyProblem(parsed.message, stream) }
  // What goes on is put into words again, not passed on: nothing but JSON as we write it.
  const given = withoutContents(body, parsed.message)
  const { message, ...kept } = isSecret
    ? sealSubmission(sealer, {
        id,
        parsed: parsed.message,
        contents: parsed.contents,
        known: context.sealedContents,
        fingerprint: idempotencyKey === null ? undefined : new Fingerprint('email').add(given).digest(),
      })
    : { message: JSON.stringify(given), parsed: parsed.message, contents: parsed.contents }
  // Words can be longer than what was given: 1e20 is written out. Refused by the door, it would fail its neighbours.
  if (Buffer.byteLength(message) > MAX_MESSAGE_BYTES) return { ok: false, problem: TOO_LARGE }
  const priority = parsed.message.priority ?? stream.priority
  const source = sourceOf(caller)
  return {
    ok: true,
    stream,
    contents: kept.contents,
    ...('references' in kept && { sealedContents: kept.references }),
    submission: { id, stream: name, priority, idempotencyKey, source, message, parsed: kept.parsed },
  }
}

const TOO_LARGE: Problem = {
  name: 'payload_too_large',
  field: 'message',
  message: `Invalid \`message\`: it is larger than ${MAX_MESSAGE_BYTES} bytes as JSON, without the bytes of its attachments; send less.`,
}

function noSuchStream({ catalog }: Pick<AppDeps, 'catalog'>, name: string): Problem {
  const known = [...catalog.current.streams.keys()].join(', ')
  return {
    name: 'validation_error',
    field: 'stream',
    message: `Invalid \`stream\`: there is no stream \`${name}\`; the streams are ${known}.`,
  }
}

/** The same problem of a message that stands at `place` in a longer body: `to[1]` becomes `[3].to[1]`. */
export function problemAt(place: string, problem: Problem): Problem {
  const { field = '', message } = problem
  const isWhole = field === 'message'
  const path = isWhole ? place : `${place}.${field}`
  return { ...problem, field: path, message: message.replace(`\`${field}\``, () => `\`${path}\``) }
}

export function asApiError({ name, message }: Problem): ApiError {
  return new ApiError(name, message)
}

/** For grouping failures. Well-formed: half of a surrogate pair would fail the statement that everybody's rows share. */
function sourceOf(caller: Caller): string {
  return `api key ${caller.name}`.slice(0, MAX_SOURCE_LENGTH).toWellFormed()
}

/** One key, one meaning at every door: what was sent as UTF-8 is the text an SQL writer would give. */
export function readIdempotencyKey(c: Context): string | null {
  const header = c.req.header('Idempotency-Key')
  if (header === undefined) return null
  // RFC 9110 section 5.5: the bytes of a header come to us one a character.
  const bytes = Buffer.from(header, 'latin1')
  const key = isUtf8(bytes) ? bytes.toString() : header
  const length = [...key].length
  if (length >= 1 && length <= MAX_KEY_LENGTH) return key
  throw new ApiError(
    'invalid_idempotency_key',
    `The header \`Idempotency-Key\` has ${length} characters; use 1 to ${MAX_KEY_LENGTH}.`,
  )
}

export type Validation = 'strict' | 'permissive'

/** Strict: one bad entry refuses all. Permissive: it is left out, and listed in the answer. */
export function readValidation(c: Context): Validation {
  const wish = c.req.header('x-batch-validation') ?? 'strict'
  if (wish === 'strict' || wish === 'permissive') return wish
  throw new ApiError('validation_error', 'The header `x-batch-validation` must be `strict` or `permissive`.')
}

/** What makes two requests the same under one key: their parts, whatever the order of keys and white space. */
export class Fingerprint {
  readonly #hash = createHash('sha256')

  constructor(...kind: string[]) {
    this.#hash.update(`${kind.join(' ')}\n`)
  }

  add(part: unknown): this {
    this.#hash.update(`${JSON.stringify(part, sortKeys)}\n`)
    return this
  }

  /** Of all so far; may be asked again. */
  digest(): Buffer {
    return this.#hash.copy().digest()
  }
}

function sortKeys(_key: string, value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value
  return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
}
