import type { z } from 'zod'
import type { Problem } from '../errors.ts'
import { below } from '../message/message-shape.ts'
import { excerpt } from '../message/message-text.ts'

type RawIssue = z.core.$ZodRawIssue
type Issue = z.core.$ZodIssue

const KINDS: Readonly<Record<string, string>> = {
  string: 'text',
  number: 'a number',
  int: 'a whole number',
  boolean: 'true or false',
  array: 'a list',
  object: 'an object',
  record: 'an object',
}
const UNITS: Readonly<Record<string, string>> = { string: 'characters', array: 'entries' }
const FORMATS: Readonly<Record<string, string>> = {
  url: 'a URL that begins with `http://` or `https://`',
  uuid: 'a UUID',
  datetime: 'a time such as `2030-01-31T12:00:00Z`',
  date: 'a day such as `2030-01-31`',
}

/** What is wrong with a value and what would be right, where its schema does not say so in words of its own. */
export function wordsFor(issue: RawIssue): string | undefined {
  const { input } = issue
  switch (issue.code) {
    case 'invalid_type':
      return `${input === null ? 'it is null' : `it is ${kindOf(input)}`}; use ${KINDS[issue.expected] ?? issue.expected}`
    case 'too_small':
      return `${sizeOf(input)}; use ${issue.inclusive === false ? 'more than' : 'at least'} ${issue.minimum}${unitOf(input)}`
    case 'too_big':
      return `${sizeOf(input)}; use at most ${issue.maximum}${unitOf(input)}`
    case 'invalid_value':
      return `it is ${shown(input)}; use ${issue.values.map((value) => `\`${String(value)}\``).join(' or ')}`
    case 'invalid_format':
      return `it is ${shown(input)}; use ${FORMATS[issue.format] ?? `what fits ${issue.format}`}`
    default:
      return undefined
  }
}

/** The first issue as a caller is told it. `fields` are those there are, for one that there is not. */
export function problemOf(issue: Issue | undefined, fields: readonly string[]): Problem {
  const field = (issue?.path ?? []).reduce<string>(below, '')
  if (issue?.code === 'unrecognized_keys') {
    const unknown = below(field, issue.keys[0] ?? '')
    const known =
      field === '' ? `; the fields are ${fields.map((each) => `\`${each}\``).join(', ')}` : '; remove it'
    return { name: 'validation_error', field: unknown, message: `Unknown field \`${unknown}\`${known}.` }
  }
  if (issue?.code === 'invalid_type' && issue.input === undefined && field !== '') {
    const right = KINDS[issue.expected] ?? issue.expected
    return {
      name: 'missing_required_field',
      field,
      message: `Missing \`${field}\` field: it is required; use ${right}.`,
    }
  }
  const why = issue?.message ?? 'it is not as expected'
  return { name: 'validation_error', field, message: `Invalid \`${field || 'body'}\`: ${why}.` }
}

function kindOf(value: unknown): string {
  if (value === undefined) return 'missing'
  if (typeof value === 'string') return 'text'
  if (typeof value === 'number' || typeof value === 'boolean') return String(value)
  return Array.isArray(value) ? 'a list' : 'an object'
}

function sizeOf(value: unknown): string {
  if (typeof value === 'string') return value === '' ? 'it is empty' : `it has ${value.length} characters`
  if (Array.isArray(value)) return value.length === 0 ? 'it is empty' : `it has ${value.length} entries`
  return `it is ${String(value)}`
}

function unitOf(value: unknown): string {
  const unit = UNITS[Array.isArray(value) ? 'array' : typeof value]
  return unit === undefined ? '' : ` ${unit}`
}

function shown(value: unknown): string {
  if (value === null || value === undefined) return String(value)
  return typeof value === 'string' ? (value === '' ? 'empty' : `\`${excerpt(value)}\``) : kindOf(value)
}
