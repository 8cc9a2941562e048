import { isUtf8 } from 'node:buffer'
import type { Context } from 'hono'
import { z } from 'zod'
import { ApiError } from '../errors.ts'
import { jsonFault } from './json-text.ts'
import { problemOf, wordsFor } from './schema-problem.ts'

/**
 * The body as JSON; a body that is none, or is declared as something else, is the caller's to repair. What two
 * readers could understand differently (a key given twice, a byte-order mark, bytes that are no UTF-8) is refused.
 */
export async function readJson(c: Context): Promise<unknown> {
  checkJsonHeaders(c)
  const text = textOf(await readBytes(c))
  const value = parse(text)
  const fault = jsonFault(text)
  if (fault !== undefined) throw malformed(fault)
  return value
}

/** A compressed body is never inflated: a few kilobytes could become gigabytes. */
export function checkJsonHeaders(c: Context): void {
  const encoding = c.req.header('Content-Encoding')
  if (encoding !== undefined && encoding.trim().toLowerCase() !== 'identity') {
    throw new ApiError(
      'validation_error',
      'The body must not be compressed: leave out the header `Content-Encoding`.',
      { status: 415 },
    )
  }
  const type = c.req.header('Content-Type')
  if (type !== undefined && !/^application\/(?:[\w.+-]+\+)?json\b/i.test(type)) {
    throw malformed('The body must be JSON: send the header `Content-Type: application/json`.')
  }
}

/** A request whose body cannot be read as it should be: 400, the caller's to repair. */
export function malformed(message: string, cause?: unknown): ApiError {
  return new ApiError('validation_error', message, { status: 400, cause })
}

export const EMPTY_BODY = 'The request body is empty; send a JSON value.'
/** RFC 8259 section 8.1: nobody may add one to JSON that is sent. */
export const BYTE_ORDER_MARK = 'The request body begins with a byte-order mark; send JSON without one.'
export const NOT_JSON = 'The request body is not valid JSON.'
export const NOT_UTF8 = 'The request body is not valid UTF-8, which JSON is sent in.'

async function readBytes(c: Context): Promise<Buffer> {
  try {
    return Buffer.from(await c.req.raw.arrayBuffer())
  } catch (error) {
    throw malformed('The request ended before its body was complete.', error)
  }
}

function textOf(bytes: Buffer): string {
  if (bytes.length === 0) throw malformed(EMPTY_BODY)
  if (!isUtf8(bytes)) throw malformed(NOT_UTF8)
  const text = bytes.toString()
  if (text.startsWith('\ufeff')) throw malformed(BYTE_ORDER_MARK)
  return text
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error
    throw malformed(NOT_JSON, error)
  }
}

/** Checks a small body, or parameters, against their schema; the first problem is the answer. */
export function parseBody<T>(schema: z.ZodType<T>, body: unknown): T {
  const parsed = schema.safeParse(body, { reportInput: true, error: wordsFor })
  if (parsed.success) return parsed.data
  const fields = schema instanceof z.ZodObject ? Object.keys(schema.shape) : []
  const { name, message } = problemOf(parsed.error.issues[0], fields)
  throw new ApiError(name, message)
}
