import { JSONParser, TokenType } from '@streamparser/json'
import { ApiError } from '../errors.ts'
import { BYTE_ORDER_MARK, EMPTY_BODY, malformed, NOT_JSON, NOT_UTF8 } from './body.ts'
import { depthFault, ObjectKeys } from './json-text.ts'

/** The first byte of a UTF-8 byte-order mark; no JSON begins with it. */
const BOM_START = 0xef
/** Of one recipient as it is sent: its variables, escapes counted, and room for the rest. */
const MAX_RECIPIENT_BYTES = 2 * 1_024 * 1_024

export type BulkPart =
  | { readonly kind: 'message'; readonly value: unknown }
  | { readonly kind: 'recipient'; readonly value: unknown }

/**
 * Reads `{"message": …, "recipients": […]}` as it arrives and forgets each part once it is handed on, so that
 * memory stays flat. As strict as `readJson`: every fault is an ApiError.
 */
export class BulkReader {
  readonly #parser = new JSONParser({
    paths: ['$.message', '$.recipients.*'],
    keepStack: false,
    // Strings are put together in one buffer, a third quicker than from pieces.
    stringBufferSize: 64 * 1_024,
  })
  readonly #decoder = new TextDecoder('utf-8', { fatal: true })
  readonly #maxMessageBytes: number
  #parts: BulkPart[] = []
  #bytes = 0
  #bytesOfPart = 0
  #hasMessage = false

  constructor(maxMessageBytes: number) {
    this.#maxMessageBytes = maxMessageBytes
    const grammar = new BulkGrammar()
    this.#parser.onToken = ({ token, value }) => grammar.meet(token, value)
    this.#parser.onValue = ({ value, stack }) => {
      const kind = stack.length === 1 ? 'message' : 'recipient'
      if (kind === 'message') this.#hasMessage = true
      this.#parts.push({ kind, value })
      this.#bytesOfPart = 0
    }
  }

  /** What this piece of the body completed. */
  write(chunk: Uint8Array): BulkPart[] {
    if (this.#bytes === 0 && chunk[0] === BOM_START) throw malformed(BYTE_ORDER_MARK)
    this.#bytes += chunk.length
    this.#bytesOfPart += chunk.length
    this.#checkEncoding(chunk)
    this.#run(() => this.#parser.write(chunk))
    this.#boundPart()
    const parts = this.#parts
    this.#parts = []
    return parts
  }

  end(): void {
    if (this.#bytes === 0) throw malformed(EMPTY_BODY)
    this.#checkEncoding(undefined)
    if (!this.#parser.isEnded) this.#run(() => this.#parser.end())
    if (!this.#parser.isEnded) throw malformed(NOT_JSON)
  }

  /** The parser would tell bytes that are no text from other faults only sometimes. */
  #checkEncoding(chunk: Uint8Array | undefined): void {
    try {
      this.#decoder.decode(chunk, { stream: chunk !== undefined })
    } catch (error) {
      throw malformed(NOT_UTF8, error)
    }
  }

  /** A part is held until it is whole. */
  #boundPart(): void {
    const [what, maxBytes] = this.#hasMessage
      ? ['one of the `recipients`', MAX_RECIPIENT_BYTES]
      : ['the `message`', this.#maxMessageBytes]
    if (this.#bytesOfPart <= maxBytes) return
    throw new ApiError(
      'payload_too_large',
      `The body has more than ${maxBytes} bytes for ${what}; send less.`,
    )
  }

  #run(work: () => void): void {
    try {
      work()
    } catch (error) {
      if (error instanceof ApiError) throw error
      throw malformed(NOT_JSON, error)
    }
  }
}

/**
 * What the tokens say before values are made of them: keys given twice, nesting without end, and that the body is
 * an object of `message` and then `recipients`, which is a list. That it is JSON at all, the parser sees itself.
 */
class BulkGrammar {
  readonly #objects: (ObjectKeys | undefined)[] = []
  #isKeyNext = false
  /** The key of the body whose value comes next. */
  #field: string | undefined
  #hasMessage = false

  meet(token: TokenType, value: unknown): void {
    if (this.#objects.length === 0 && token !== TokenType.LEFT_BRACE) {
      throw new ApiError('validation_error', 'Invalid body: use an object with `message` and `recipients`.')
    }
    const keys = this.#objects.at(-1)
    if (token === TokenType.STRING && this.#isKeyNext) {
      this.#isKeyNext = false
      this.#meetKey(String(value), keys)
    } else if (token !== TokenType.COLON) {
      this.#checkField(token)
      this.#nest(token, keys)
    }
  }

  #meetKey(key: string, keys: ObjectKeys | undefined): void {
    const fault = keys?.faultOf(key)
    if (fault !== undefined) throw malformed(fault)
    if (this.#objects.length !== 1) return
    this.#field = key
    if (key === 'message') this.#hasMessage = true
    else if (key !== 'recipients') throw unknownField(key)
    else if (!this.#hasMessage) {
      throw new ApiError(
        'validation_error',
        'Invalid `recipients`: `message` must come before it, since the body is read as it arrives.',
      )
    }
  }

  #checkField(token: TokenType): void {
    if (this.#field === 'recipients' && token !== TokenType.LEFT_BRACKET) {
      throw new ApiError('validation_error', 'Invalid `recipients`: use a list of objects with `to`.')
    }
    this.#field = undefined
  }

  #nest(token: TokenType, keys: ObjectKeys | undefined): void {
    if (token === TokenType.COMMA) {
      this.#isKeyNext = keys !== undefined
    } else if (token === TokenType.LEFT_BRACE || token === TokenType.LEFT_BRACKET) {
      this.#isKeyNext = token === TokenType.LEFT_BRACE
      const fault = depthFault(this.#objects.push(this.#isKeyNext ? new ObjectKeys() : undefined))
      if (fault !== undefined) throw malformed(fault)
    } else if (token === TokenType.RIGHT_BRACE || token === TokenType.RIGHT_BRACKET) {
      this.#isKeyNext = false
      this.#objects.pop()
    }
  }
}

function unknownField(key: string): ApiError {
  const name = key.slice(0, 60).toWellFormed()
  return new ApiError(
    'validation_error',
    `Invalid \`${name}\`: there is no such field; use \`message\` and \`recipients\`.`,
  )
}
