import type { Message } from '../message/message.ts'
import type { ParsedMessage } from '../message/message-schema.ts'
import { messageSchema } from '../message/message-shape.ts'
import {
  mergeSecrets,
  type SealedMessage,
  sealContents,
  sealedRowOf,
  sealMessage,
  withSealedContents,
} from '../message/sensitive-message.ts'
import { SealError, type Sealer } from '../sealer.ts'
import type { ExaminedRow } from './examine.ts'

/** A row as the mover can read it. Any door may hand in sensitive mail in the clear; the REST door seals it first. */
export type ReadRow = {
  readonly parsed: ParsedMessage
  readonly isSensitive: boolean
  /** It came sealed and does not open here. */
  readonly fault?: SealError
}

const UNREAD: ParsedMessage = {
  ok: false,
  problem: { name: 'validation_error', message: 'The message cannot be decrypted.' },
}

/** Opens a row that came sealed: from the REST door, or again from the dead letters. Undefined for any other. */
export function openRow(
  sealer: Sealer,
  id: string,
  given: unknown,
  parse: (given: unknown) => ParsedMessage,
): ReadRow | undefined {
  const row = sealedRowOf(given)
  if (row === undefined) return undefined
  try {
    const { part, text } = sealer.open(id, row.sealed)
    // What was sealed as content was read before, by one of ours: nobody else can seal.
    const parsed: ParsedMessage =
      part === 'content'
        ? { ok: true, message: mergeSecrets(row.clear, text), contents: [] }
        : parse(JSON.parse(text))
    return { parsed, isSensitive: true }
  } catch (error) {
    if (!(error instanceof SealError)) throw error
    return { parsed: UNREAD, isSensitive: true, fault: error }
  }
}

/** Whether a row that is no good message was meant to be sensitive: in doubt it was. */
export function claimsToBeSensitive(given: unknown): boolean {
  if (typeof given !== 'object' || given === null || !('sensitive' in given)) return false
  return given.sensitive !== false
}

export function streamNamedIn(given: unknown): string | undefined {
  if (typeof given !== 'object' || given === null || !('stream' in given)) return undefined
  return typeof given.stream === 'string' ? given.stream : undefined
}

export type GoodMessage = Extract<ParsedMessage, { ok: true }>

/** The bytes of its attachments sealed; undefined when it names bytes that are stored in the clear. */
export function sealAttachments(good: GoodMessage): GoodMessage | undefined {
  const { contents, references } = sealContents(good.contents)
  const message = withSealedContents({ ...good.message, sensitive: true }, references)
  return message && { ok: true, message, contents }
}

export const CLEAR_ATTACHMENT_REASON =
  'Invalid `attachments`: what mail.attach stores is not encrypted, so a sensitive message cannot name it; give the bytes as base64 in `content`.'

/** What is wrong with a row, without the words that were given. */
export function withheldReason(field: string | undefined): string {
  const [name = ''] = /^\w+/.exec(field ?? '') ?? []
  const what = Object.hasOwn(messageSchema.shape, name) ? `Invalid \`${name}\`` : 'The message is not valid'
  return `${what}; what is wrong with it is not kept, because it is sensitive. POST /emails answers it for the same body.`
}

/** The row as it is stored: of a sensitive one, nothing that is secret in the clear. */
export function sealRow(sealer: Sealer, row: ExaminedRow): ExaminedRow {
  if (!row.is_sensitive) return row
  const kept = row.status === 'dead' ? sealRefused(sealer, row) : sealGood(sealer, row)
  return { ...row, message: JSON.stringify(kept.clear), sealed: kept.sealed }
}

function sealGood(sealer: Sealer, { id, secret }: ExaminedRow): SealedMessage {
  if (secret === undefined) throw new Error('a sensitive message was examined and not kept')
  return sealMessage(sealer, id, secret)
}

const NOTHING_CLEAR = { sensitive: true } as const

type Kept = { readonly clear: Message | typeof NOTHING_CLEAR; readonly sealed: string | null }

/** As it was given, for a later retry: sealed already, or sealed whole now; without a key nothing of it is kept. */
function sealRefused(sealer: Sealer, { id, given, code }: ExaminedRow): Kept {
  // What only looks as if one of ours had sealed it is anybody's text.
  const asItCame = code === 'content_damaged' ? undefined : sealedRowOf(jsonOf(given))
  if (asItCame !== undefined) return asItCame
  return { clear: NOTHING_CLEAR, sealed: sealer.canSeal ? sealer.seal('row', id, given) : null }
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    if (error instanceof SyntaxError || error instanceof RangeError) return undefined
    throw error
  }
}
