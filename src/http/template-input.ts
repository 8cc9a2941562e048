import type { Context } from 'hono'
import { z } from 'zod'
import { ApiError } from '../errors.ts'
import { parseAddress } from '../message/address.ts'
import { DEFAULT_MESSAGE_LIMITS } from '../message/message-schema.ts'
import { Refusal } from '../message/message-shape.ts'
import { excerpt, lineFault, textFault } from '../message/message-text.ts'
import { checkVariables } from '../message/message-variables.ts'
import type { TemplateContent } from '../templates/template-content.ts'
import type { TemplateChanges, TemplateIdentity } from '../templates/template-writes.ts'
import { parseBody } from './body.ts'

const MAX_NAME_CHARS = 200
const MAX_SUBJECT_CHARS = 998
const MAX_REPLY_TO = 50
const MAX_VARIABLES = 100
const MAX_FALLBACK_CHARS = 2_000
const MAX_VERSION = 2_147_483_647
const DEFAULT_PAGE = 20
const MAX_PAGE = 100

const UUID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i

type Check = { readonly value: string; readonly issues: { push(issue: object): unknown } }

/** A check whose complaint is what the function says is wrong. */
function refusing(faultOf: (value: string) => string | undefined) {
  return (check: Check) => {
    const message = faultOf(check.value)
    if (message !== undefined) check.issues.push({ code: 'custom', message, input: check.value })
  }
}

const storable = z.string().check(refusing(textFault))
const address = z.string().check(refusing(addressFault))
const name = z.string().trim().min(1).max(MAX_NAME_CHARS).check(refusing(nameFault))
const alias = z
  .string()
  .regex(/^[A-Za-z0-9_-]{1,100}$/, 'use 1 to 100 ASCII letters, digits, `-` or `_`')
  .check(refusing(nameFault))

const variableSchema = z
  .strictObject({
    key: z
      .string()
      .regex(/^[A-Za-z_][A-Za-z0-9_]{0,49}$/, 'use a letter, then letters, digits or `_`, 50 at most'),
    type: z.enum(['string', 'number'], 'use `string` or `number`'),
    fallback_value: z
      .union([storable.max(MAX_FALLBACK_CHARS), z.number()], 'use a text or a number')
      .nullish(),
  })
  .refine(
    ({ type, fallback_value: fallback }) =>
      fallback === undefined || fallback === null || typeof fallback === type,
    { path: ['fallback_value'], message: 'it is not of the type of its variable' },
  )

const variablesSchema = z
  .array(variableSchema)
  .max(MAX_VARIABLES)
  .refine((list) => new Set(list.map(({ key }) => key)).size === list.length, 'a key is declared twice')

const contentSchema = {
  subject: storable.max(MAX_SUBJECT_CHARS).nullish(),
  html: storable.nullish(),
  text: storable.nullish(),
  from: address.nullish(),
  reply_to: z
    .union([address, z.array(address).max(MAX_REPLY_TO)], 'use an address or a list of them')
    .nullish(),
  variables: variablesSchema.nullish(),
  strict: z.boolean('use true or false').optional(),
}
export const draftSchema = z.strictObject({ name, alias: alias.nullish(), ...contentSchema })
export const changesSchema = z.strictObject({
  name: name.optional(),
  alias: alias.nullish(),
  ...contentSchema,
})
const version = z.int().min(1).max(MAX_VERSION)
export const versionSchema = z.strictObject({ version })
export const previewSchema = z.strictObject({
  version: version.optional(),
  variables: z.record(z.string(), z.unknown()).optional(),
})

export function readDraft(body: unknown): { identity: TemplateIdentity; content: TemplateContent } {
  const given = parseBody(draftSchema, body)
  if ((given.html ?? null) === null && (given.text ?? null) === null) {
    throw new ApiError('missing_required_field', 'Missing `html` or `text` field: a template needs a body.')
  }
  return {
    identity: { name: given.name, alias: given.alias ?? null },
    content: { ...EMPTY, ...contentOf(given) },
  }
}

/** Only what is given, null included: that takes a field away. */
export function readChanges(body: unknown): TemplateChanges {
  const given = parseBody(changesSchema, body)
  return {
    ...(given.name !== undefined && { name: given.name }),
    ...(given.alias !== undefined && { alias: given.alias }),
    ...contentOf(given),
  }
}

export function readPreview(body: unknown): { version: number | null; variables: Record<string, unknown> } {
  const { version: wanted = null, variables = {} } = parseBody(previewSchema, body)
  try {
    checkVariables(variables, DEFAULT_MESSAGE_LIMITS.maxVariablesBytes)
  } catch (error) {
    if (!(error instanceof Refusal)) throw error
    throw new ApiError(error.problem.name, error.problem.message)
  }
  return { version: wanted, variables }
}

export function readVersion(c: Context): number | null {
  return readWhole(c, 'version', MAX_VERSION) ?? null
}

export function readPage(c: Context): { limit: number; after: string | null; before: string | null } {
  const [after = null, before = null] = [c.req.query('after'), c.req.query('before')]
  if (after !== null && before !== null) {
    throw new ApiError(
      'validation_error',
      'Invalid `before`: it cannot be used together with `after`; use one of them.',
    )
  }
  return { limit: readWhole(c, 'limit', MAX_PAGE) ?? DEFAULT_PAGE, after, before }
}

function readWhole(c: Context, field: string, max: number): number | undefined {
  const text = c.req.query(field)
  if (text === undefined) return undefined
  const value = /^\d{1,10}$/.test(text) ? Number(text) : 0
  if (value >= 1 && value <= max) return value
  throw new ApiError(
    'validation_error',
    `Invalid \`${field}\`: it is \`${excerpt(text)}\`; use a whole number from 1 to ${max}.`,
  )
}

const EMPTY: TemplateContent = {
  ...{ subject: null, html: null, text: null, sender: null, reply_to: null },
  ...{ variables: [], is_strict: false },
}

function contentOf(given: Omit<z.infer<typeof changesSchema>, 'name' | 'alias'>): Partial<TemplateContent> {
  const { subject, html, text, from, reply_to: replyTo, variables, strict } = given
  return {
    ...(subject !== undefined && { subject }),
    ...(html !== undefined && { html }),
    ...(text !== undefined && { text }),
    ...(from !== undefined && { sender: from }),
    ...(replyTo !== undefined && { reply_to: typeof replyTo === 'string' ? [replyTo] : replyTo }),
    ...(variables !== undefined && { variables: (variables ?? []).map(declared) }),
    ...(strict !== undefined && { is_strict: strict }),
  }
}

function declared({ key, type, fallback_value: fallback = null }: z.infer<typeof variableSchema>) {
  return { key, type, fallback_value: fallback }
}

function addressFault(value: string): string | undefined {
  const parsed = parseAddress(value)
  return parsed.ok ? undefined : parsed.reason
}

/** A message, a URL and an error must be able to name it, and an id must mean one template. */
function nameFault(value: string): string | undefined {
  const fault = lineFault(value)
  if (fault !== undefined) return `${fault}; use a single line of text`
  if (value === '.' || value === '..') return 'no URL can carry this name; use another one'
  if (UUID.test(value)) return 'it looks like the id of a template; use another name'
  return undefined
}
