/** What RFC 4648 section 4 leaves to be ignored where a specification says so: as Postgres does in decode(). */
const WHITE_SPACE = /[ \t\r\n]+/g
const NOT_IN_ALPHABET = /[^A-Za-z0-9+/]/

export type Decoded =
  | { readonly ok: true; readonly bytes: Buffer }
  | { readonly ok: false; readonly reason: string }

/**
 * Decodes base64 as RFC 4648 section 4 has it, with its padding; only white space is passed over. Node's own decoder
 * takes anything and leaves out what it does not know, so that a mistake would become a broken file.
 */
export function decodeBase64(text: string): Decoded {
  const packed = text.replace(WHITE_SPACE, '')
  if (packed === '') return { ok: false, reason: 'it is empty' }
  const padding = packed.endsWith('==') ? 2 : packed.endsWith('=') ? 1 : 0
  const fault = NOT_IN_ALPHABET.exec(packed.slice(0, packed.length - padding))
  if (fault !== null) return { ok: false, reason: describeFault(fault[0], fault.index) }
  if (packed.length % 4 !== 0) {
    return { ok: false, reason: `it has ${packed.length} characters, and base64 comes in groups of four` }
  }
  return { ok: true, bytes: Buffer.from(packed, 'base64') }
}

function describeFault(character: string, index: number): string {
  if (character === '-' || character === '_') {
    return `it has a \`${character}\`, as the URL-safe alphabet has, where \`+\` and \`/\` are expected`
  }
  const shown = /^[!-~]$/.test(character) ? `\`${character}\`` : 'a character'
  return `it has ${shown} at place ${index + 1} that is not base64`
}
