import { createHmac } from 'node:crypto'
import { isSameSecret } from './same-secret.ts'

/**
 * Envelope senders of our own, one for each message (VERP): `bounce+<id>-<tag>@<bounce domain>`. A report that comes
 * back to one is about that message, whatever it says or leaves out, and comes from somebody whom the message reached:
 * the tag cannot be guessed.
 */
export type BounceAddresses = {
  /** The same on every attempt, from every process. */
  of(messageId: string, domain: string): string
  /** The first one in a text such as a header's value: `forged` when its tag is wrong, undefined when there is none. */
  find(text: string): { readonly messageId: string } | 'forged' | undefined
}

/** 64 bits: each guess costs a mail, and is parked where it is seen. */
const TAG_HEX = 16
/** 56 characters before the `@`, of 64 allowed (RFC 5321 section 4.5.3.1.1). Hex: relays may change the case. */
const ADDRESS = /(?<![\w.+-])bounce\+([0-9a-f]{32})-([0-9a-f]{16})@/i

export function createBounceAddresses(secret: Buffer): BounceAddresses {
  const key = createHmac('sha256', secret).update('sluice bounce address v1').digest()
  const tagOf = (id: string) => createHmac('sha256', key).update(id).digest('hex').slice(0, TAG_HEX)
  return {
    of(messageId, domain) {
      const id = messageId.replaceAll('-', '').toLowerCase()
      return `bounce+${id}-${tagOf(id)}@${domain}`
    },
    find(text) {
      const [found, hex = '', given = ''] = ADDRESS.exec(text) ?? []
      if (found === undefined) return undefined
      const id = hex.toLowerCase()
      const isOurs = isSameSecret(given.toLowerCase(), tagOf(id))
      return isOurs ? { messageId: uuidOf(id) } : 'forged'
    },
  }
}

function uuidOf(hex: string): string {
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
}
