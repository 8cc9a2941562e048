/** Header-like lines, by lower-case name; the values of one that is repeated in order. */
export type Fields = ReadonlyMap<string, readonly string[]>

/** Groups of fields with blank lines between them, as RFC 3464 section 2.1 and RFC 5965 section 3 write them. */
export function readGroups(text: string): Fields[] {
  return text
    .split(/(?:\r?\n[ \t]*){2,}/)
    .map(readFields)
    .filter((fields) => fields.size > 0)
}

/** The fields of a message (RFC 5322 section 2.2), up to its body; what follows is not looked at. */
export function readHeader(message: Buffer): Fields {
  const text = message.subarray(0, MAX_HEADER_BYTES).toString('utf8').replace(/^\s+/, '')
  const end = text.search(/\r?\n\r?\n/)
  return readFields(end === -1 ? text : text.slice(0, end))
}

/** Whole: what Sluice writes stands far before this, behind a few traces of relays. */
const MAX_HEADER_BYTES = 65_536

/** Lines that are no fields are left out. */
export function readFields(text: string): Fields {
  const fields = new Map<string, string[]>()
  for (const line of text.replace(/\r?\n[ \t]+/g, ' ').split(/\r?\n/)) {
    const [, name, value = ''] = /^([!-9;-~]{1,100})[ \t]*:(.*)$/.exec(line) ?? []
    if (name === undefined) continue
    const values = fields.get(name.toLowerCase())
    if (values === undefined) fields.set(name.toLowerCase(), [value.trim()])
    else values.push(value.trim())
  }
  return fields
}

/** The first value of a field. */
export function fieldOf(fields: Fields, name: string): string | undefined {
  return fields.get(name)?.[0]
}
