import { z } from 'zod'
import { parseAddress } from '../message/address.ts'
import { lineFault } from '../message/message-text.ts'
import type { KeyLimits, KeyScope } from './keys.ts'

/** What may be asked of a key, in the words of the API; the command line gives the same. */

const MAX_NAMES = 100
const RATE = 'must be a number from 0.001 to 1000000'
const BURST = 'must be a whole number from 1 to 1000000'

const stream = z.string().regex(/^[a-z0-9_-]{1,64}$/, 'must be 1 to 64 of a-z, 0-9, _ and -')

/** Read as the senders it will be compared with: in lower case, and an internationalised name in its ASCII form. */
const domain = z.string().transform((text, context) => {
  const parsed = parseAddress(`sender@${text}`)
  if (parsed.ok && parsed.address.name === undefined) return parsed.address.address.slice('sender@'.length)
  context.addIssue({ code: 'custom', message: 'must be a domain such as example.com' })
  return z.NEVER
})

const future = z.iso
  .datetime({ offset: true, error: 'must be a time such as 2030-01-31T12:00:00Z' })
  .transform((text) => new Date(text))
  .refine((time) => time.getTime() > Date.now(), 'must be in the future; to end a key now, revoke it')

export const keyName = z
  .string()
  .trim()
  .min(1, 'must not be empty')
  .max(200, 'must have at most 200 characters')
  .refine((text) => lineFault(text) === undefined, 'must be one line of text')

/** Null takes a limit away. */
export const keyLimits = {
  streams: z.array(stream).min(1).max(MAX_NAMES).nullable().exactOptional(),
  sender_domains: z.array(domain).min(1).max(MAX_NAMES).nullable().exactOptional(),
  expires_at: future.nullable().exactOptional(),
  rate_limit_per_s: z.number(RATE).min(0.001, RATE).max(1_000_000, RATE).nullable().exactOptional(),
  rate_burst: z.int(BURST).min(1, BURST).max(1_000_000, BURST).nullable().exactOptional(),
}

/** Why a key cannot have these limits together, or undefined when it can. */
export function limitsFault(key: { scope: KeyScope } & Partial<KeyLimits>): string | undefined {
  const bound = (key.streams ?? null) !== null ? 'streams' : 'sender_domains'
  if (key.scope !== 'send' && (key[bound] ?? null) !== null) {
    return `Invalid \`${bound}\`: only a key of scope \`send\` can be bound; this one has \`${key.scope}\`.`
  }
  if ((key.rate_burst ?? null) !== null && (key.rate_limit_per_s ?? null) === null) {
    return 'Invalid `rate_burst`: it says how many requests may come at once under a `rate_limit_per_s`; give both, or null for both.'
  }
  return undefined
}
