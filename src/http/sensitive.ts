import type { Stream } from '../catalog.ts'
import type { Problem } from '../errors.ts'
import type { Message } from '../message/message.ts'
import type { AttachmentContent } from '../message/message-attachments.ts'
import {
  type SealedContent,
  sealContents,
  sealedRowText,
  sealMessage,
  withSealedContents,
} from '../message/sensitive-message.ts'
import { NO_KEY_REASON, type Sealer } from '../sealer.ts'

export type SealedContents = ReadonlyMap<string, SealedContent>

export type SealedSubmission = {
  /** What is appended in place of the body. */
  readonly message: string
  /** With references to the sealed bytes of its attachments. */
  readonly parsed: Message
  /** The sealed bytes. */
  readonly contents: readonly AttachmentContent[]
  readonly references: SealedContents
}

/** Whether this message is to be kept secret; a stream's word holds for all of its mail. */
export function isSensitive({ sensitive }: Pick<Message, 'sensitive'>, stream: Stream): boolean {
  return sensitive === true || stream.isSensitive
}

/** Why sensitive mail cannot be taken here. */
export function noKeyProblem({ sensitive }: Message, stream: Stream): Problem {
  const [field, remedy] =
    sensitive === true
      ? (['sensitive', 'or leave it out'] as const)
      : (['stream', `or send it in a stream that is not sensitive, as \`${stream.name}\` is`] as const)
  return {
    name: 'validation_error',
    field,
    message: `Invalid \`${field}\`: ${NO_KEY_REASON}, ${remedy}.`,
  }
}

export type ToSeal = {
  readonly id: string
  readonly parsed: Message
  readonly contents: readonly AttachmentContent[]
  /** Of a bulk: its attachments were sealed before, once for all recipients. */
  readonly known: SealedContents | undefined
  /** Of what was given, when a key stands for it. */
  readonly fingerprint: Buffer | undefined
}

/** Seals a message before it leaves this process, so that the database never sees it in the clear. */
export function sealSubmission(sealer: Sealer, given: ToSeal): SealedSubmission {
  const { contents, references } = sealContents(given.contents)
  const all = given.known === undefined ? references : new Map([...given.known, ...references])
  const parsed = withSealedContents({ ...given.parsed, sensitive: true }, all)
  if (parsed === undefined) throw new Error('an attachment of a sensitive message came without its bytes')
  const digests = given.fingerprint === undefined ? [] : sealer.digestsOf(given.fingerprint)
  const message = sealedRowText(sealMessage(sealer, given.id, parsed), digests)
  return { message, parsed, contents, references }
}

/**
 * What stands for many messages under one key: not to be guessed from, when any of them is sensitive. The others are
 * what the same request may have left before a key was rotated, or its stream became sensitive.
 */
export function fingerprintsOf(
  sealer: Sealer,
  fingerprint: Buffer,
  hasSensitive: boolean,
): { readonly fingerprint: Buffer; readonly otherFingerprints: readonly Buffer[] } {
  const digests = sealer.digestsOf(fingerprint)
  const [first] = digests
  if (!hasSensitive || first === undefined) return { fingerprint, otherFingerprints: digests }
  return { fingerprint: first, otherFingerprints: [...digests.slice(1), fingerprint] }
}
