import type { Problem } from '../errors.ts'
import { excerpt } from '../message/message-text.ts'

/** What is a recipient's own. Its types are checked with the mail that it becomes part of. */
export const bulkRecipientFields: readonly string[] = ['to', 'variables', 'cc', 'headers', 'metadata', 'tags']

type Merged = { readonly ok: true; readonly body: object } | { readonly ok: false; readonly problem: Problem }

/** The mail of one recipient: variables, headers and metadata over those of the message, tags after them. */
export function mergeRecipient(message: Readonly<Record<string, unknown>>, value: unknown): Merged {
  if (!isObject(value)) return refused('message', 'use an object with `to`')
  const unknown = Object.keys(value).find((field) => !bulkRecipientFields.includes(field))
  if (unknown !== undefined) {
    const known = bulkRecipientFields.map((field) => `\`${field}\``).join(', ')
    return refused(excerpt(unknown), `there is no such field; use ${known}`)
  }
  const { variables, headers, metadata, tags, ...envelope } = value
  const { template } = message
  if (variables !== undefined && !isObject(template)) {
    return refused('variables', 'the message has no `template` to put them into')
  }
  return {
    ok: true,
    body: {
      ...message,
      ...envelope,
      ...(headers !== undefined && { headers: merge(message.headers, headers) }),
      ...(metadata !== undefined && { metadata: merge(message.metadata, metadata) }),
      ...(tags !== undefined && { tags: append(message.tags, tags) }),
      ...(variables !== undefined &&
        isObject(template) && { template: { ...template, variables: merge(template.variables, variables) } }),
    },
  }
}

/** What is no object stays as it is, and is refused as such. */
function merge(base: unknown, over: unknown): unknown {
  return isObject(base) && isObject(over) ? { ...base, ...over } : over
}

function append(base: unknown, more: unknown): unknown {
  return Array.isArray(base) && Array.isArray(more) ? [...base, ...more] : more
}

function refused(field: string, rest: string): Merged {
  return {
    ok: false,
    problem: { name: 'validation_error', field, message: `Invalid \`${field}\`: ${rest}.` },
  }
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
