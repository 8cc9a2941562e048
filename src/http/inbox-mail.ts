import PostalMime, { type Attachment, decodeWords, type Email } from 'postal-mime'

export type MailPart = {
  readonly name: string
  readonly mimeType: string
  readonly content: Uint8Array
}

/** A mail taken apart for display. Everything in it comes from strangers. */
export type DecodedMail = {
  /** In the order of the message, values unfolded and decoded. */
  readonly headers: readonly { readonly name: string; readonly value: string }[]
  /** Ready for a frame that loads nothing: images of the mail itself are written into it as data. */
  readonly html: string | undefined
  readonly text: string | undefined
  readonly attachments: readonly MailPart[]
  /** Web addresses the mail asks its reader to visit: the frame cannot follow them. */
  readonly links: readonly string[]
}

/** One picture used a thousand times must not become a thousand copies of it. */
const MAX_INLINED_CHARS = 20 * 1024 * 1024
const MAX_LINKS = 50
const MAX_LINK_CHARS = 2000
const INLINE_IMAGES: ReadonlySet<string> = new Set(['image/png', 'image/jpeg', 'image/gif', 'image/webp'])

/** Decodes a message; undefined when its structure is beyond what can be read (nesting, header size). */
export async function decodeMail(raw: Buffer): Promise<DecodedMail | undefined> {
  const email = await parseMail(raw)
  if (email === undefined) return undefined
  return {
    headers: email.headers.map(({ originalKey, value }) => ({
      name: originalKey,
      value: decodeWords(value),
    })),
    html: email.html === undefined ? undefined : withInlineImages(email.html, email.attachments),
    text: email.text,
    attachments: email.attachments.map(toPart),
    links: findLinks(email),
  }
}

/** All values of one header; `name` in any case. */
export function headerValues(mail: DecodedMail, name: string): string[] {
  return mail.headers.filter((header) => header.name.toLowerCase() === name).map(({ value }) => value)
}

async function parseMail(raw: Buffer): Promise<Email | undefined> {
  try {
    return await PostalMime.parse(raw, { forceRfc822Attachments: true })
  } catch {
    // Reading from memory cannot fail otherwise: the parser refused the structure, with a plain error.
    return undefined
  }
}

function toPart(attachment: Attachment, index: number): MailPart {
  return {
    name: safeFileName(attachment.filename) || `attachment-${index + 1}`,
    mimeType: attachment.mimeType,
    content: bytesOf(attachment),
  }
}

function bytesOf({ content }: Attachment): Uint8Array {
  return typeof content === 'string' ? Buffer.from(content) : new Uint8Array(content)
}

/** No path, no control or direction-changing characters: `exe.gpj` must not read as `jpg.exe`. */
function safeFileName(name: string | null): string {
  return (name ?? '')
    .replace(/[\p{Cc}\p{Cf}]/gu, '')
    .replace(/[\\/:*?"<>|]/g, '_')
    .toWellFormed()
    .slice(0, 150)
    .toWellFormed()
    .replace(/^[.\s]+|\s+$/g, '')
}

/** Replaces `cid:` references (RFC 2392) by the pictures they name: a browser cannot resolve them. */
function withInlineImages(html: string, attachments: readonly Attachment[]): string {
  const images = new Map<string, Attachment>()
  for (const attachment of attachments) {
    const id = attachment.contentId?.replace(/^<|>$/g, '')
    if (id !== undefined && INLINE_IMAGES.has(attachment.mimeType)) images.set(id, attachment)
  }
  if (images.size === 0) return html
  let inlinedChars = 0
  return html.replace(/\bcid:([^\s"'<>()]{1,250})/gi, (reference, id: string) => {
    const image = images.get(id)
    if (image === undefined) return reference
    const content = bytesOf(image)
    inlinedChars += content.length * 1.4
    if (inlinedChars > MAX_INLINED_CHARS) return reference
    return `data:${image.mimeType};base64,${Buffer.from(content).toString('base64')}`
  })
}

function findLinks({ html, text }: Email): string[] {
  const found =
    html === undefined
      ? Array.from((text ?? '').matchAll(/https?:\/\/[^\s<>"]+/g), ([url]) => url)
      : Array.from(html.matchAll(/href\s*=\s*(?:"([^"]*)"|'([^']*)')/gi), ([, double, single]) =>
          (double ?? single ?? '').replaceAll('&amp;', '&').trim(),
        )
  const links = found.filter((url) => url.length <= MAX_LINK_CHARS && isWebAddress(url))
  return [...new Set(links)].slice(0, MAX_LINKS)
}

/** Only what a click may safely follow; `javascript:` and `data:` never become links on our own page. */
function isWebAddress(url: string): boolean {
  const protocol = URL.parse(url)?.protocol
  return protocol === 'http:' || protocol === 'https:'
}
