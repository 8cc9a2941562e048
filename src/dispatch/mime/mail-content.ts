import { base64LinesLength, writeBase64Lines } from './base64-lines.ts'

/** ASCII with CRLF line ends as it will stand, or bytes that will stand there as lines of base64. */
export type ContentPiece = string | Buffer

/**
 * A composed mail whose attachments are still bytes: they become text once, in the one buffer that is sent. Every piece
 * of bytes begins at the start of a line, and what follows it begins with a line end.
 */
export class MailContent {
  /** Bytes of the whole message, before dot-stuffing. */
  readonly size: number
  readonly #pieces: readonly ContentPiece[]

  constructor(pieces: readonly ContentPiece[]) {
    this.#pieces = joined(pieces)
    this.size = sizeOf(this.#pieces)
  }

  /** Writes the message at `offset`, where `size` bytes must be free; returns the end. */
  writeTo(target: Buffer, offset: number): number {
    return write(this.#pieces, target, offset)
  }

  toBuffer(): Buffer {
    const buffer = Buffer.allocUnsafe(this.size)
    this.writeTo(buffer, 0)
    return buffer
  }

  /**
   * The message as it goes over the wire, dot-stuffed and ended (RFC 5321 section 4.5.2), in one piece so that it is one
   * write. Undefined for a message with a bare CR or LF, which servers may read as a line end, and so as the end of the
   * message and the start of a smuggled one. Only text can have those, or a dot at the start of a line.
   */
  toWire(): Buffer | undefined {
    const stuffed: ContentPiece[] = []
    for (const piece of this.#pieces) {
      if (typeof piece !== 'string') stuffed.push(piece)
      else if (/\r(?!\n)|(?<!\r)\n/.test(piece)) return undefined
      else stuffed.push(piece.includes('\r\n.') ? piece.replaceAll('\r\n.', '\r\n..') : piece)
    }
    const [first] = stuffed
    const last = stuffed.at(-1)
    if (typeof last !== 'string' || !last.endsWith('\r\n')) return undefined
    stuffed[stuffed.length - 1] = `${last}.\r\n`
    if (typeof first === 'string' && first.startsWith('.')) stuffed[0] = `.${stuffed[0]}`
    const wire = Buffer.allocUnsafe(sizeOf(stuffed))
    write(stuffed, wire, 0)
    return wire
  }
}

/** Neighbouring text made one: line ends and dots are then looked for across what was put together. */
function joined(pieces: readonly ContentPiece[]): ContentPiece[] {
  const result: ContentPiece[] = []
  for (const piece of pieces) {
    const last = result.at(-1)
    if (typeof piece === 'string' && typeof last === 'string') result[result.length - 1] = last + piece
    else result.push(piece)
  }
  return result
}

function sizeOf(pieces: readonly ContentPiece[]): number {
  return pieces.reduce(
    (sum, piece) => sum + (typeof piece === 'string' ? piece.length : base64LinesLength(piece.length)),
    0,
  )
}

function write(pieces: readonly ContentPiece[], target: Buffer, offset: number): number {
  let end = offset
  for (const piece of pieces) {
    if (typeof piece === 'string') end += target.write(piece, end, 'latin1')
    else end = writeBase64Lines(target, end, piece)
  }
  return end
}
