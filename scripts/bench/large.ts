/** Mails of 100 KB, none of which is like another, and whose text a database cannot make much smaller. */
import { FROM } from './order.ts'

export const LARGE_BYTES = 100_000
const LINE = 72
/** Slices of it that begin at different places are different mails. */
const SOURCE_BYTES = 3 * LARGE_BYTES

const SOURCE = sourceText()

function sourceText(): string {
  let state = 20_261_122
  const lines: string[] = []
  while (lines.length * (LINE + 1) < SOURCE_BYTES) {
    const bytes = Buffer.alloc((LINE / 4) * 3)
    for (let at = 0; at < bytes.length; at += 1) {
      // Numbers of the minimal standard generator of Park and Miller.
      state = (state * 48_271) % 2_147_483_647
      bytes[at] = state & 0xff
    }
    lines.push(bytes.toString('base64'))
  }
  return lines.join('\n')
}

export function largeMail(n: number): {
  readonly to: string
  readonly subject: string
  readonly text: string
} {
  const from = (n * 7_919) % (SOURCE.length - LARGE_BYTES)
  return {
    to: `customer-${n}@mail.example`,
    subject: `Your report ${n}`,
    text: SOURCE.slice(from, from + LARGE_BYTES),
  }
}

/** As JSON of `mail.outbox`. */
export function largeMessage(n: number): string {
  const { to, ...content } = largeMail(n)
  return JSON.stringify({ from: `${FROM.name} <${FROM.address}>`, to: [to], ...content })
}
