import type { Context } from 'hono'
import { ApiError } from '../errors.ts'

const UUID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i

export function isEmailId(text: string): boolean {
  return UUID.test(text)
}

/** The email a path speaks of; what cannot be an id is nobody's. */
export function emailIdOf(c: Context): string {
  const id = c.req.param('id') ?? ''
  if (!isEmailId(id)) throw emailNotFound()
  return id
}

export function emailNotFound(): ApiError {
  return new ApiError('not_found', 'Email not found.')
}
