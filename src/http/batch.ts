import type { Context } from 'hono'
import { keepAttachments } from '../attachment-store.ts'
import { ApiError } from '../errors.ts'
import type { Caller } from '../keys/keys.ts'
import type { AttachmentContent } from '../message/message-attachments.ts'
import { NO_KEYS } from '../sealer.ts'
import type { AuthEnv } from './auth.ts'
import { readJson } from './body.ts'
import type { AppDeps, Submission } from './deps.ts'
import { fingerprintsOf } from './sensitive.ts'
import {
  asApiError,
  Fingerprint,
  problemAt,
  readIdempotencyKey,
  readSubmission,
  readValidation,
  type Validation,
} from './submission.ts'

const MAX_BATCH = 100

type EntryError = { readonly index: number; readonly message: string }

/**
 * `POST /emails/batch`: up to 100 messages of their own, accepted durably and together. One idempotency key covers
 * them all; a repeat gets the same ids in the same order.
 */
export async function sendBatch(deps: AppDeps, c: Context<AuthEnv>): Promise<Response> {
  deps.admit()
  const key = readIdempotencyKey(c)
  const validation = readValidation(c)
  const entries = checkEntries(await readJson(c))
  const { submissions, contents, errors } = readEntries(deps, entries, c.get('caller'), validation)
  const given = new Fingerprint('batch', validation)
  if (key !== null) given.add(entries)
  const hasSensitive = submissions.some(({ parsed }) => parsed.sensitive === true)
  await keepAttachments(deps.db, contents)
  const accepted = await deps.acceptMany({
    key,
    chunks: once(submissions),
    seal: () => ({
      ...fingerprintsOf(deps.sealer ?? NO_KEYS, given.digest(), hasSensitive),
      answer: validation === 'permissive' ? { errors } : null,
    }),
    timeoutMs: deps.acceptTimeoutMs,
  })
  c.header('Sluice-Durability', 'durable')
  if (accepted.isReplay) c.header('Idempotent-Replayed', 'true')
  return c.json({ data: accepted.ids.map((id) => ({ id })), ...accepted.answer })
}

function checkEntries(body: unknown): unknown[] {
  if (!Array.isArray(body)) {
    throw new ApiError('validation_error', 'Invalid body: use a list of 1 to 100 emails.')
  }
  if (body.length >= 1 && body.length <= MAX_BATCH) return body
  throw new ApiError(
    'validation_error',
    `Invalid body: the list has ${body.length} emails; use 1 to ${MAX_BATCH}, or \`POST /emails/bulk\` for one message to many.`,
  )
}

/** Strict: throws for the first entry that is wrong. */
function readEntries(
  deps: AppDeps,
  entries: readonly unknown[],
  caller: Caller,
  validation: Validation,
): { submissions: Submission[]; contents: AttachmentContent[]; errors: EntryError[] } {
  const submissions: Submission[] = []
  const contents: AttachmentContent[] = []
  const errors: EntryError[] = []
  for (const [index, entry] of entries.entries()) {
    const read = readSubmission(deps, entry, { caller, idempotencyKey: null })
    if (read.ok) {
      deps.admit(read.stream)
      submissions.push(read.submission)
      contents.push(...read.contents)
      continue
    }
    const problem = problemAt(`[${index}]`, read.problem)
    if (validation === 'strict') throw asApiError(problem)
    errors.push({ index, message: problem.message })
  }
  return { submissions, contents, errors }
}

async function* once<T>(value: T): AsyncIterable<T> {
  yield value
}
