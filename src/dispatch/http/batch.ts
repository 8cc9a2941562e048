import type { OutgoingAttachment } from '../mime/attachment-part.ts'
import { base64Length } from '../mime/base64-lines.ts'
import type { Outgoing, SendOutcome } from '../transport.ts'
import {
  type ApiDeps,
  type BatchApi,
  outcomeOf,
  type Piece,
  piecesOf,
  sendInTurn,
  sendOne,
  withRate,
} from './mail-api.ts'

type BatchDeps = ApiDeps & { readonly batch: BatchApi }
type Place = { readonly index: number; readonly piece: Piece }

/** JSON needs more bytes than the message: quotes and line breaks are escaped, and every mail has its field names. */
const FRAME_BYTES = 4_096

/**
 * Hands over many messages in as few requests as the provider's limits allow. One bad message never condemns its
 * neighbours: what only a request of its own can tell is asked alone.
 */
export async function sendBatch(
  deps: BatchDeps,
  outgoing: readonly Outgoing[],
  signal: AbortSignal | undefined,
): Promise<readonly SendOutcome[]> {
  const outcomes = new Map<number, SendOutcome>()
  const places: Place[] = []
  for (const [index, each] of outgoing.entries()) {
    const pieces = piecesOf(deps.api, each)
    const fits = deps.batch.takesAttachments || each.mail.attachments === undefined
    if ('kind' in pieces) outcomes.set(index, pieces)
    else if (pieces.length === 1 && fits) places.push({ index, piece: pieces[0] })
    else outcomes.set(index, await sendOne(deps, each, signal))
  }
  for (const chunk of chunksOf(deps.batch, places)) {
    const settled = await sendChunk(
      deps,
      chunk.map(({ piece }) => piece),
      signal,
    )
    for (const [at, { index }] of chunk.entries()) outcomes.set(index, settled[at] ?? UNANSWERED)
  }
  return outgoing.map((_, index) => outcomes.get(index) ?? UNANSWERED)
}

/** As few requests as the provider's limits on number and bytes allow. */
function chunksOf({ size, maxBytes }: BatchApi, places: readonly Place[]): Place[][] {
  const chunks: Place[][] = []
  let room = 0
  for (const place of places) {
    const bytes = sizeInJson(place.piece)
    const chunk = chunks.at(-1)
    if (chunk === undefined || chunk.length === size || bytes > room) {
      chunks.push([place])
      room = maxBytes - bytes
    } else {
      chunk.push(place)
      room -= bytes
    }
  }
  return chunks
}

function sizeInJson({ mail }: Piece): number {
  const parts = [mail.html, mail.text, mail.subject, ...Object.entries(mail.headers).flat()]
  const attachments = (mail.attachments ?? []).reduce((sum, each) => sum + sizeOfAttachment(each), 0)
  return FRAME_BYTES + Buffer.byteLength(JSON.stringify(parts)) + attachments
}

function sizeOfAttachment({ filename, content }: OutgoingAttachment): number {
  return FRAME_BYTES + Buffer.byteLength(JSON.stringify(filename)) + base64Length(content.length)
}

async function sendChunk(
  deps: BatchDeps,
  pieces: readonly Piece[],
  signal: AbortSignal | undefined,
): Promise<readonly SendOutcome[]> {
  const { api, batch, client, now } = deps
  if (pieces.length === 1) return sendInTurn(deps, pieces, signal)
  const result = await client.post(batch.toRequest(pieces), signal, deps.isStillOurs)
  if (result.kind !== 'answered') return pieces.map(() => result)
  const { answer } = result
  const read = batch.readAnswer(answer, pieces)
  if (read.kind === 'alone') return sendInTurn(deps, pieces, signal)
  const entryAt = (index: number) => (read.kind === 'whole' ? read.fault : read.entries[index])
  const alone = pieces.filter((_, index) => entryAt(index) === 'alone')
  const asked = await sendInTurn(deps, alone, signal)
  return pieces.map((piece, index) => {
    const entry = entryAt(index)
    if (entry === 'alone') return asked[alone.indexOf(piece)] ?? UNANSWERED
    return entry === undefined ? UNANSWERED : withRate(outcomeOf(api, entry), answer, now)
  })
}

/** The provider answered, but not about this message. */
const UNANSWERED: SendOutcome = {
  kind: 'unknown',
  code: 'protocol_error',
  reason: 'the answer says nothing about this message',
}
