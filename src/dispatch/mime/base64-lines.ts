/** RFC 2045 section 6.8: lines of at most 76 characters, each of 57 bytes. */
const LINE_CHARS = 76
const LINE_BYTES = 57
/** In whole groups of three. Strings of this size are gone before they cost anything. */
const SLICE_BYTES = 48 * 1_024

const CR = 13
const LF = 10

export function base64Length(bytes: number): number {
  return 4 * Math.ceil(bytes / 3)
}

/** Without a line end after the last line. */
export function base64LinesLength(bytes: number): number {
  const chars = base64Length(bytes)
  return chars + 2 * Math.max(0, Math.ceil(chars / LINE_CHARS) - 1)
}

/** Writes `content` as one long line at `offset`, in slices: it may be tens of megabytes. Returns the end. */
export function writeBase64(target: Buffer, offset: number, content: Buffer): number {
  let end = offset
  for (let start = 0; start < content.length; start += SLICE_BYTES) {
    end += target.write(content.toString('base64', start, start + SLICE_BYTES), end, 'latin1')
  }
  return end
}

/** The same in lines as a mail has them, CRLF between them. */
export function writeBase64Lines(target: Buffer, offset: number, content: Buffer): number {
  let end = offset
  for (let start = 0; start < content.length; start += LINE_BYTES) {
    if (start > 0) {
      target[end] = CR
      target[end + 1] = LF
      end += 2
    }
    end += target.write(content.toString('base64', start, start + LINE_BYTES), end, 'latin1')
  }
  return end
}
