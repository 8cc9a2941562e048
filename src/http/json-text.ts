/** Far deeper than any body of ours; what walks a body by recursion is safe within it. */
const MAX_DEPTH = 64
/** So many keys are quicker compared one by one than hashed. */
const FEW_KEYS = 16

const QUOTE = 0x22
const COMMA = 0x2c
const OPEN_BRACKET = 0x5b
const BACKSLASH = 0x5c
const CLOSE_BRACKET = 0x5d
const OPEN_BRACE = 0x7b
const CLOSE_BRACE = 0x7d

/** The keys of one object as they are met, and what is wrong with the next one. */
export class ObjectKeys {
  readonly #few: string[] = []
  #many: Set<string> | undefined

  faultOf(key: string): string | undefined {
    if (this.#many?.has(key) ?? this.#few.includes(key)) {
      return `The request body gives the key \`${key.slice(0, 60).toWellFormed()}\` twice in one object; give each key once.`
    }
    if (key === '__proto__') {
      return 'The request body has a key `__proto__`, a name that is reserved in JavaScript; use another one.'
    }
    if (this.#many !== undefined) this.#many.add(key)
    else if (this.#few.push(key) > FEW_KEYS) this.#many = new Set(this.#few)
    return undefined
  }
}

/** The complaint about nesting, when a container at this depth goes too far. */
export function depthFault(depth: number): string | undefined {
  if (depth <= MAX_DEPTH) return undefined
  return `The request body is nested more than ${MAX_DEPTH} levels deep; use a flatter shape.`
}

/**
 * What `JSON.parse` lets pass and readers of JSON disagree on: a key given twice, of which it keeps the last
 * (RFC 8259 section 4 leaves that open), `__proto__`, and nesting without end. Undefined when there is none.
 *
 * For text that `JSON.parse` has taken: one pass over what lies between strings, which are jumped over.
 */
export function jsonFault(text: string): string | undefined {
  const objects: (ObjectKeys | undefined)[] = []
  let keys: ObjectKeys | undefined
  let isKeyNext = false
  for (let at = 0; at < text.length; at += 1) {
    const code = text.charCodeAt(at)
    if (code === QUOTE) {
      const end = endOfString(text, at)
      if (isKeyNext && keys !== undefined) {
        const fault = keys.faultOf(keyIn(text, at, end))
        if (fault !== undefined) return fault
        isKeyNext = false
      }
      at = end
    } else if (code === COMMA) {
      isKeyNext = keys !== undefined
    } else if (code === OPEN_BRACE || code === OPEN_BRACKET) {
      isKeyNext = code === OPEN_BRACE
      keys = isKeyNext ? new ObjectKeys() : undefined
      const fault = depthFault(objects.push(keys))
      if (fault !== undefined) return fault
    } else if (code === CLOSE_BRACE || code === CLOSE_BRACKET) {
      objects.pop()
      keys = objects.at(-1)
      isKeyNext = false
    }
  }
  return undefined
}

/** Where the string that begins at `start` has its closing quote: the first with an even number of backslashes before. */
function endOfString(text: string, start: number): number {
  let end = text.indexOf('"', start + 1)
  while (end !== -1) {
    let before = end - 1
    while (text.charCodeAt(before) === BACKSLASH) before -= 1
    if ((end - before) % 2 === 1) return end
    end = text.indexOf('"', end + 1)
  }
  return text.length
}

function keyIn(text: string, start: number, end: number): string {
  const key = text.slice(start + 1, end)
  // The same name can be written with and without escapes.
  return key.includes('\\') ? (JSON.parse(text.slice(start, end + 1)) as string) : key
}
