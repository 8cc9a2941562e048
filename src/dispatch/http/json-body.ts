import { randomUUID } from 'node:crypto'
import { base64Length, writeBase64 } from '../mime/base64-lines.ts'

/** Bytes that stand in JSON as a string of base64, without ever being such a string here: they may be 40 MB. */
export class Base64Bytes {
  readonly #bytes: Buffer

  constructor(bytes: Buffer) {
    this.#bytes = bytes
  }

  get length(): number {
    return base64Length(this.#bytes.length)
  }

  writeTo(target: Buffer, offset: number): number {
    return writeBase64(target, offset, this.#bytes)
  }
}

/** JSON in one buffer, with every `Base64Bytes` in it as a string. */
export function encodeJson(value: unknown): Buffer {
  // Nobody can have written this into a value, as it is made anew each time it is needed.
  let mark = ''
  const inserts: Base64Bytes[] = []
  const json = JSON.stringify(value, (_key, each: unknown) => {
    if (!(each instanceof Base64Bytes)) return each
    mark ||= randomUUID()
    inserts.push(each)
    return mark
  })
  return inserts.length === 0 ? Buffer.from(json) : assemble(json.split(mark), inserts)
}

function assemble(texts: readonly string[], inserts: readonly Base64Bytes[]): Buffer {
  const textBytes = texts.reduce((sum, text) => sum + Buffer.byteLength(text), 0)
  const size = inserts.reduce((sum, insert) => sum + insert.length, textBytes)
  const body = Buffer.allocUnsafe(size)
  let end = 0
  for (const [index, text] of texts.entries()) {
    end += body.write(text, end)
    end = inserts[index]?.writeTo(body, end) ?? end
  }
  return body
}
