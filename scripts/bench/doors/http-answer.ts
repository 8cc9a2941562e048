const HEADER_END = Buffer.from('\r\n\r\n')
const LAST_CHUNK = Buffer.from('0\r\n\r\n')

/** Whether `bytes` is a whole answer, by its length or its last chunk (RFC 9112 section 6). */
export function isWhole(bytes: Buffer): boolean {
  const end = bytes.indexOf(HEADER_END)
  if (end === -1) return false
  const length = /content-length: (\d+)/i.exec(bytes.toString('latin1', 0, end))?.[1]
  if (length === undefined) return bytes.subarray(-LAST_CHUNK.length).equals(LAST_CHUNK)
  return bytes.length >= end + HEADER_END.length + Number(length)
}
