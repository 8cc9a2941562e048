import { z } from 'zod'
import type { Catalog } from '../catalog.ts'
import { parseAddress } from '../message/address.ts'
import { excerpt, textFault } from '../message/message-text.ts'

const MAX_REASON_CHARS = 500
/** The scope of an entry that counts in every stream. */
export const EVERY_STREAM = '*'

export const reasonSchema = z
  .string()
  .min(1, 'must not be empty')
  .max(MAX_REASON_CHARS, `must have at most ${MAX_REASON_CHARS} characters`)
  .refine((text) => textFault(text) === undefined, 'has a character that cannot be stored')

export const expirySchema = z.iso
  .datetime({ offset: true, message: 'must be a time such as 2030-01-31T12:00:00Z' })
  .refine((text) => Date.parse(text) > Date.now(), 'must be in the future')

export type ReadAddress =
  | { readonly ok: true; readonly address: string }
  | { readonly ok: false; readonly reason: string }

/** A bare address as the list holds it; `reason` is the rest of a sentence. */
export function readAddress(text: string): ReadAddress {
  const parsed = parseAddress(text)
  if (!parsed.ok) return parsed
  if (text.trim().endsWith('>')) {
    return { ok: false, reason: 'it has a name or brackets; use an address like `name@example.com`' }
  }
  return { ok: true, address: parsed.address.address.toLowerCase() }
}

/** Why this is not a scope, or undefined when it is one. */
export function scopeFault({ streams }: Catalog, scope: string): string | undefined {
  if (scope === EVERY_STREAM || streams.has(scope)) return undefined
  return `there is no stream \`${excerpt(scope)}\`; use \`*\` for all, or one of ${[...streams.keys()].join(', ')}`
}
