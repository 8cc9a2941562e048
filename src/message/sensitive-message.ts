import { hash } from 'node:crypto'
import { type SealedBytes, type Sealer, sealBytes } from '../sealer.ts'
import type { Attachment, Message } from './message.ts'
import { type AttachmentContent, isStored } from './message-attachments.ts'

/**
 * How sensitive mail is stored: who it is from and to, its tags and its metadata as they are, since it is routed and found
 * by them; everything else sealed, for this message alone.
 */
export type SealedMessage = {
  /** A message in which nothing is left that is secret. */
  readonly clear: Message
  readonly sealed: string
}

type Secrets = Pick<Message, 'subject' | 'html' | 'text' | 'headers' | 'attachments'> & {
  readonly variables?: Readonly<Record<string, unknown>>
}

/** Throws a SealError when there is no key. */
export function sealMessage(sealer: Sealer, id: string, message: Message): SealedMessage {
  const { subject, html, text, headers, attachments, template, ...envelope } = message
  const secrets: Secrets = {
    ...(subject !== undefined && { subject }),
    ...(html !== undefined && { html }),
    ...(text !== undefined && { text }),
    headers,
    ...(attachments !== undefined && { attachments }),
    ...(template !== undefined && { variables: template.variables }),
  }
  const clear: Message = {
    ...envelope,
    headers: {},
    ...(template !== undefined && { template: { ...template, variables: {} } }),
    sensitive: true,
  }
  return { clear, sealed: sealer.seal('content', id, JSON.stringify(secrets)) }
}

/** The message as it was before. Throws a SealError. */
export function openMessage(sealer: Sealer, id: string, { clear, sealed }: SealedMessage): Message {
  return mergeSecrets(clear, sealer.open(id, sealed).text)
}

/** `opened` is the text of what was sealed as `content`. */
export function mergeSecrets(clear: Message, opened: string): Message {
  const { variables = {}, ...secrets } = JSON.parse(opened) as Secrets
  const { template } = clear
  return { ...clear, ...secrets, ...(template !== undefined && { template: { ...template, variables } }) }
}

/** What stands in a sensitive message for the bytes of an attachment. */
export type SealedContent = { readonly sha256: string; readonly size: number; readonly key: string }

/**
 * Seals the bytes of attachments, once for any number of messages. `references` has what stands for each, by the hash of
 * what was given and by the hash of what is stored.
 */
export function sealContents(contents: readonly AttachmentContent[]): {
  readonly contents: AttachmentContent[]
  readonly references: ReadonlyMap<string, SealedContent>
} {
  const sealed: AttachmentContent[] = []
  const references = new Map<string, SealedContent>()
  for (const { sha256, bytes } of contents) {
    if (references.has(sha256)) continue
    const { content, reference } = named(sealBytes(bytes))
    sealed.push(content)
    references.set(sha256, reference).set(reference.sha256, reference)
  }
  return { contents: sealed, references }
}

function named({ bytes, key }: SealedBytes): { content: AttachmentContent; reference: SealedContent } {
  const sha256 = hash('sha256', bytes, 'hex')
  return { content: { sha256, bytes }, reference: { sha256, size: bytes.length, key } }
}

/** The same message with sealed bytes for those that were given; undefined when some of them are not there. */
export function withSealedContents(
  message: Message,
  references: ReadonlyMap<string, SealedContent>,
): Message | undefined {
  if (message.attachments === undefined) return message
  const attachments: Attachment[] = []
  for (const attachment of message.attachments) {
    const reference = isStored(attachment) ? references.get(attachment.sha256) : undefined
    if (isStored(attachment) && attachment.key === undefined && reference === undefined) return undefined
    attachments.push({ ...attachment, ...reference })
  }
  return { ...message, attachments }
}

/** A row of the intake whose message comes sealed: what can be read of it, and what makes it the same as another. */
export function sealedRowText({ clear, sealed }: SealedMessage, digests: readonly Buffer[]): string {
  // First in the text: that is how mail.fingerprints knows it.
  return JSON.stringify({
    ...(digests.length > 0 && { digests: digests.map((digest) => digest.toString('hex')) }),
    ...clear,
    sealed,
  })
}

/** The sealed message of such a row, or undefined for any other JSON. Whether it opens shows whether it is one of ours. */
export function sealedRowOf(given: unknown): SealedMessage | undefined {
  if (typeof given !== 'object' || given === null || !('sealed' in given)) return undefined
  const { sealed, digests: _, ...clear } = given as { sealed: unknown; digests?: unknown }
  return typeof sealed === 'string' ? { clear: clear as unknown as Message, sealed } : undefined
}
