import * as base64 from 'nodemailer/lib/base64'
import * as qp from 'nodemailer/lib/qp'
import { BOUNDARY_START } from './boundary.ts'
import { isMostlyNonAscii } from './header-text.ts'

/** RFC 5322 section 2.1.1, without the CRLF. */
const MAX_LINE_CHARS = 998

/** A part of plain text or HTML, its headers first. */
export function textPart(type: 'text/plain' | 'text/html', content: string): string {
  const body = content.replace(/\r\n|\r|\n/g, '\r\n')
  const [encoding, encodedBody] = encodeBody(body)
  return `Content-Type: ${type}; charset=utf-8\r\nContent-Transfer-Encoding: ${encoding}\r\n\r\n${encodedBody}`
}

function encodeBody(body: string): readonly ['7bit' | 'quoted-printable' | 'base64', string] {
  const bytes = Buffer.byteLength(body)
  if (bytes === body.length && isSevenBit(body)) return ['7bit', body]
  if (isMostlyNonAscii(body, bytes)) return ['base64', base64.wrap(base64.encode(body))]
  return ['quoted-printable', qp.wrap(qp.encode(body))]
}

/** Whether text, known to be ASCII, can stand in a mail as it is: RFC 2045 section 2.7, and no boundary of ours in it. */
export function isSevenBit(body: string): boolean {
  if (/[^\t\r\n -~]/.test(body) || body.includes(BOUNDARY_START)) return false
  let start = 0
  // By hand: a pattern for 999 characters without a line end would look at each of them 999 times.
  while (start < body.length) {
    const end = body.indexOf('\r\n', start)
    if ((end < 0 ? body.length : end) - start > MAX_LINE_CHARS) return false
    start = end < 0 ? body.length : end + 2
  }
  return true
}
