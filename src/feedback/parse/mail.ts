import PostalMime from 'postal-mime'

/** A mail as far as reports need it. Nothing inside an attached message is read as part of this one. */
export type Mail = {
  /** Every value of a header, in order, its line breaks undone. */
  headers(name: string): readonly string[]
  /** The plain text that people see; empty when there is none. */
  readonly text: string
  readonly parts: readonly MailPart[]
}

export type MailPart = {
  /** Lower case, such as `message/delivery-status`. */
  readonly type: string
  readonly content: Buffer
}

/** Each costs the parser some microseconds: a mail of nothing but line breaks would hold up the others for seconds. */
const MAX_LINES = 10_000
const LINE_FEED = 0x0a

/**
 * Reads a mail, cut off anywhere as it may be. Undefined for nesting or headers beyond any report's, which the
 * parser refuses with errors of no kind of their own.
 */
export async function readMail(body: Buffer): Promise<Mail | undefined> {
  const email = await PostalMime.parse(firstLines(body, MAX_LINES), { forceRfc822Attachments: true }).catch(
    () => undefined,
  )
  if (email === undefined) return undefined
  return {
    headers: (name) => email.headers.filter(({ key }) => key === name).map(({ value }) => value),
    text: email.text ?? '',
    parts: email.attachments.map(({ mimeType, content }) => ({
      type: mimeType,
      content: typeof content === 'string' ? Buffer.from(content) : Buffer.from(content as ArrayBuffer),
    })),
  }
}

/** The content of the first part of one of these types. */
export function partOf(mail: Mail, ...types: readonly string[]): Buffer | undefined {
  return mail.parts.find(({ type }) => types.includes(type))?.content
}

function firstLines(body: Buffer, count: number): Buffer {
  let end = 0
  for (let line = 0; line < count; line += 1) {
    const feed = body.indexOf(LINE_FEED, end)
    if (feed === -1) return body
    end = feed + 1
  }
  return body.subarray(0, end)
}
