import { z } from 'zod'
import type { Problem } from '../errors.ts'
import { excerpt } from './message-text.ts'

const MAX_TAGS = 50
const MAX_HEADERS = 50
const MAX_METADATA = 50
const MAX_ATTACHMENTS = 100
const MAX_SUBJECT_CHARS = 998

export const ADDRESS = 'an address like `name@example.com` or `Name <name@example.com>`'
const ADDRESSES = `${ADDRESS}, or a list of them`
const SUBJECT = `a line of at most ${MAX_SUBJECT_CHARS} characters`
const TAG = '1 to 256 ASCII letters, digits, `_` or `-`'
const STREAM = '1 to 64 characters of `a-z`, `0-9`, `_` and `-`'
const PRIORITY = 'a whole number from 0 (first) to 9 (last)'
const SCHEDULED_AT = 'a string with a moment like `2026-08-05T11:52:01Z`, or a short form like `in 1 hour`'
const CONTENT = 'the bytes of the file as base64'
const PATH = 'the URL of the file'
const SHA256 = 'the SHA-256 of stored bytes as `mail.attach` returns it, 64 characters of `0-9` and `a-f`'
const SENSITIVE = '`true`, or leave it out'
const VERSION = 'a whole number from 1, or leave it out for the latest published version'

const addresses = z.union([z.string(), z.array(z.string())], ADDRESSES)
/** Only looked at, not copied as a record would be: a hostile million of keys is then refused for its size instead. */
const variables = z
  .unknown()
  .refine(isObject, 'an object of values for the template')
  .meta({ type: 'object', additionalProperties: true })
const tagText = z.string(TAG).regex(/^[\w-]{1,256}$/, TAG)

const attachment = {
  filename: z.string('the name of the file').optional(),
  content: z.string(CONTENT).optional(),
  path: z.string(PATH).optional(),
  content_type: z.string('a type like `application/pdf`').optional(),
  content_id: z.string('a name for `cid:` in the HTML').optional(),
}
const ATTACHMENT = 'an object with `filename` and `content`, and where needed `content_type` and `content_id`'
const ATTACHMENTS = 'a list of objects with `filename` and `content`'

/**
 * The shape of a message: the body of `POST /emails` and the `message` column of an SQL insert, key for key as
 * Resend names them. The rules a shape cannot state (addresses, characters, sizes) are in `parseMessage`.
 *
 * The text given with each part says what is right there; it ends the sentence of the problem that is reported.
 */
export const messageSchema = z.strictObject({
  from: z.string(ADDRESS).optional(),
  to: addresses,
  cc: addresses.optional(),
  bcc: addresses.optional(),
  reply_to: addresses.optional(),
  subject: z.string(SUBJECT).max(MAX_SUBJECT_CHARS, SUBJECT).optional(),
  html: z.string('a string of HTML').optional(),
  text: z.string('a string of plain text').optional(),
  headers: z.record(z.string(), z.string('a string'), 'an object of header names and strings').optional(),
  tags: z
    .array(
      z.strictObject({ name: tagText, value: tagText }, 'an object with only `name` and `value`'),
      'a list of objects with `name` and `value`',
    )
    .optional(),
  metadata: z.record(z.string(), z.string('a string'), 'an object of strings').optional(),
  template: z
    .strictObject(
      {
        id: z.string('the id, the alias or the name of a template'),
        version: z.int(VERSION).min(1, VERSION).max(2_147_483_647, VERSION).optional(),
        variables: variables.optional(),
      },
      'an object with `id`, and where needed `version` and `variables`',
    )
    .optional(),
  scheduled_at: z.string(SCHEDULED_AT).optional(),
  attachments: z.array(z.strictObject(attachment, ATTACHMENT), ATTACHMENTS).optional(),
  stream: z
    .string(STREAM)
    .regex(/^[a-z0-9_-]{1,64}$/, STREAM)
    .optional(),
  priority: z.int(PRIORITY).min(0, PRIORITY).max(9, PRIORITY).optional(),
  sensitive: z.boolean(SENSITIVE).optional(),
})

/** Where a message comes in: over REST, or as a row of SQL, which the REST door writes as well. */
export type Door = 'rest' | 'row'

/** A row may name bytes by their hash. Over REST that would tell anybody with a key what others have sent. */
const rowSchema = messageSchema.extend({
  attachments: z
    .array(
      z.strictObject(
        {
          ...attachment,
          sha256: z
            .string(SHA256)
            .regex(/^[0-9a-f]{64}$/, SHA256)
            .optional(),
        },
        ATTACHMENT,
      ),
      ATTACHMENTS,
    )
    .optional(),
})

export type MessageShape = z.infer<typeof rowSchema>
export type AttachmentShape = NonNullable<MessageShape['attachments']>[number]

const FIELDS = Object.keys(messageSchema.shape)
  .map((field) => `\`${field}\``)
  .join(', ')

type Issue = z.core.$ZodIssue
type Path = readonly PropertyKey[]

/** Thrown while a message is read, and caught where reading began: it carries what the caller is told. */
export class Refusal extends Error {
  readonly problem: Problem

  constructor(
    name: 'missing_required_field' | 'validation_error' | 'invalid_attachment',
    field: string,
    message: string,
  ) {
    super(message)
    this.problem = { name, field, message }
  }
}

/** `rest` ends the sentence: why the value is wrong, and what would be right. */
export function invalid(field: string, rest: string): Refusal {
  return new Refusal('validation_error', field, `Invalid \`${field}\`: ${rest}.`)
}

export function missing(field: string, rest: string): Refusal {
  return new Refusal('missing_required_field', field, `Missing \`${field}\`: ${rest}.`)
}

export function invalidAttachment(field: string, rest: string): Refusal {
  return new Refusal('invalid_attachment', field, `Invalid \`${field}\`: ${rest}.`)
}

/** One more step of a path; a key is the caller's own text and may be anything. */
export function below(field: string, key: PropertyKey): string {
  if (typeof key === 'number') return `${field}[${key}]`
  const name = key === '' ? '""' : excerpt(String(key))
  return field === '' ? name : `${field}.${name}`
}

/**
 * Checks the shape. An unknown field is reported before all else, since it is most often another field misspelt;
 * then the first problem in the order of the schema.
 */
export function readShape(input: unknown, maxRecipients: number, door: Door): MessageShape {
  if (!isObject(input)) throw invalid('message', `it is ${kindOf(input)}; use a JSON object`)
  boundCollections(input, maxRecipients)
  const schema = door === 'row' ? rowSchema : messageSchema
  const result = schema.safeParse(input, { reportInput: true })
  if (result.success) return result.data
  const issues = result.error.issues
  const unknownField = issues.find((issue) => issue.code === 'unrecognized_keys' && issue.path.length === 0)
  const issue = unknownField ?? issues[0]
  const refusal = describeIssue(issue, [])
  const { field = '', message } = refusal.problem
  throw issue?.path[0] === 'attachments' ? new Refusal('invalid_attachment', field, message) : refusal
}

/**
 * Zod collects every issue before it answers, so a list of a million numbers would cost a million issues: what can
 * grow is counted first. It also leaves out a `__proto__` key of a record, which must not vanish unseen.
 */
function boundCollections(input: Record<string, unknown>, maxRecipients: number): void {
  for (const field of ['to', 'cc', 'bcc', 'reply_to']) boundList(field, input[field], maxRecipients)
  boundList('tags', input.tags, MAX_TAGS)
  boundList('attachments', input.attachments, MAX_ATTACHMENTS, invalidAttachment)
  boundRecord('headers', input.headers, MAX_HEADERS)
  boundRecord('metadata', input.metadata, MAX_METADATA)
}

function boundList(field: string, value: unknown, max: number, refuse = invalid): void {
  if (!Array.isArray(value) || value.length <= max) return
  throw refuse(field, `it has ${value.length} entries; use at most ${max}`)
}

function boundRecord(field: string, value: unknown, max: number): void {
  if (!isObject(value)) return
  if (Object.hasOwn(value, '__proto__')) throw reservedKey(field)
  const size = Object.keys(value).length
  if (size > max) throw invalid(field, `it has ${size} entries; use at most ${max}`)
}

/** `__proto__` is harmless as data, until some later code assigns it: nothing needs that name. */
export function reservedKey(field: string): Refusal {
  return invalid(below(field, '__proto__'), 'this name is reserved in JavaScript; use another one')
}

function describeIssue(issue: Issue | undefined, prefix: Path): Refusal {
  if (issue === undefined) return invalid('message', 'it could not be understood; use a JSON object')
  const path = [...prefix, ...issue.path]
  const field = path.reduce<string>(below, '')
  if (issue.code === 'unrecognized_keys') {
    const use = field === '' ? `one of ${FIELDS}` : issue.message
    return invalid(below(field, issue.keys[0] ?? ''), `there is no such field; use ${use}`)
  }
  if (issue.code === 'invalid_union') {
    // The list is the last option: an issue inside it says more than that neither option fits.
    const inner = issue.errors.at(-1)?.[0]
    if (inner !== undefined && inner.path.length > 0) {
      return describeIssue({ ...inner, message: ADDRESS }, path)
    }
  }
  if (issue.input === undefined) return missing(field, `it is required; use ${issue.message}`)
  return invalid(field, `${faultOf(issue)}; use ${issue.message}`)
}

function faultOf(issue: Issue): string {
  const { code, input } = issue
  if (input === null) return 'it is null, and what is absent must be left out'
  if (code === 'too_big' && typeof input === 'string') return `it is ${input.length} characters long`
  if (typeof input === 'number') return `it is ${input}`
  if (code === 'invalid_format')
    return input === '' ? 'it is empty' : `\`${excerpt(String(input))}\` does not fit`
  return `it is ${kindOf(input)}`
}

function kindOf(value: unknown): string {
  if (value === null || value === undefined) return String(value)
  if (Array.isArray(value)) return 'a list'
  return typeof value === 'object' ? 'an object' : `a ${typeof value}`
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
