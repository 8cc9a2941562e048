import { hash } from 'node:crypto'
import type { Context } from 'hono'

/** A strong entity tag of these bytes (RFC 9110 section 8.8.3). */
export function entityTag(bytes: string | Uint8Array): string {
  return `"${hash('sha256', bytes, 'base64url').slice(0, 27)}"`
}

/** Whether the client has these bytes already (RFC 9110 section 13.1.2: the comparison is weak). */
export function isFresh(c: Context, tag: string): boolean {
  const given = c.req.header('If-None-Match') ?? ''
  return given === '*' || given.split(',').some((each) => each.trim().replace(/^W\//, '') === tag)
}
