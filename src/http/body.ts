import type { Context } from 'hono'
import type { z } from 'zod'
import { ApiError } from '../errors.ts'

/** The body as JSON; a body that is none, or is declared as something else, is the caller's to repair. */
export async function readJson(c: Context): Promise<unknown> {
  const type = c.req.header('Content-Type')
  if (type !== undefined && !/^application\/(?:[\w.+-]+\+)?json\b/i.test(type)) {
    throw new ApiError(
      'validation_error',
      'The body must be JSON: send the header `Content-Type: application/json`.',
      {
        status: 400,
      },
    )
  }
  const text = await c.req.text()
  try {
    return JSON.parse(text)
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error
    throw new ApiError('validation_error', 'The request body is not valid JSON.', {
      status: 400,
      cause: error,
    })
  }
}

/** Checks a small body against its schema; the first problem is the answer. */
export function parseBody<T>(schema: z.ZodType<T>, body: unknown): T {
  const parsed = schema.safeParse(body, { reportInput: true })
  if (parsed.success) return parsed.data
  const [issue] = parsed.error.issues
  const field = issue?.path.join('.') ?? ''
  if (issue?.code === 'unrecognized_keys') {
    throw new ApiError('validation_error', `Unknown field \`${issue.keys[0]?.slice(0, 80)}\`; remove it.`)
  }
  if (issue?.code === 'invalid_type' && issue.input === undefined && field !== '') {
    throw new ApiError('missing_required_field', `Missing \`${field}\` field.`)
  }
  throw new ApiError(
    'validation_error',
    `Invalid \`${field || 'body'}\`: ${issue?.message ?? 'not as expected'}.`,
  )
}
