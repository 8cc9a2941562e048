import { hash } from 'node:crypto'
import type { z } from 'zod'
import type { Clock } from '../../database-clock.ts'
import type { OutgoingMail } from '../compose.ts'
import { composed } from '../composed.ts'
import type { MailContent } from '../mime/mail-content.ts'
import {
  isSendable,
  type Outgoing,
  type RefusedRecipient,
  type SendOutcome,
  type StillOurs,
  type Transport,
} from '../transport.ts'
import type { ApiCheck } from './api-check.ts'
import { sendBatch } from './batch.ts'
import type { HttpAnswer, HttpClient, HttpRequest } from './client.ts'
import { encodeJson } from './json-body.ts'
import { readRate } from './rate.ts'
import { type Addressing, addressesOf, addressingOf, withVisibleRecipient } from './recipients.ts'
import { type ApiFault, type ApiRule, classifyFault, outcomeOfFault, safeText } from './verdict.ts'

/** One mail as it is handed to a provider; almost always the whole of an `Outgoing`. */
export type Piece = {
  readonly mail: OutgoingMail
  /** The whole RFC 5322 message. Also composed for APIs that take it in parts: it proves that nothing in it is unsafe. */
  readonly content: MailContent
  readonly addressing: Addressing
  /** The same on every attempt, and no two pieces have the same. */
  readonly key: string
}

/** What is particular to one provider. Pure, but for a signature that may take its time. */
export type MailApi = {
  /** The provider's limit for one message, its attachments encoded. */
  readonly maxBytes: number
  /** Never to appear in an outcome. */
  readonly secrets: readonly string[]
  /** False where the API takes an envelope and shows the headers of our own message. */
  readonly writesHeaders: boolean
  readonly rules: readonly ApiRule[]
  toRequest(piece: Piece): HttpRequest | Promise<HttpRequest>
  /** The outcome when the answer says that the mail was accepted; otherwise what it says instead. */
  readAnswer(answer: HttpAnswer, piece: Piece): Accepted | ApiFault
  readonly batch?: BatchApi
  readonly check: ApiCheck
}

export type Accepted = Extract<SendOutcome, { kind: 'accepted' }>

export type BatchApi = {
  readonly size: number
  /** Otherwise a mail that has some goes in a request of its own. */
  readonly takesAttachments: boolean
  /** The provider's limit for the body of a request. */
  readonly maxBytes: number
  toRequest(pieces: readonly Piece[]): HttpRequest
  readAnswer(answer: HttpAnswer, pieces: readonly Piece[]): BatchAnswer
}

/** `alone`: only a request of its own tells what is wrong with that message. */
export type BatchAnswer =
  /** One entry a piece, in their order. */
  | { readonly kind: 'each'; readonly entries: readonly (Accepted | ApiFault | 'alone')[] }
  | { readonly kind: 'whole'; readonly fault: ApiFault }
  | { readonly kind: 'alone' }

export function isAccepted(read: Accepted | ApiFault): read is Accepted {
  return 'kind' in read
}

/** What the provider's documentation promises, or undefined for anything else: no JSON, other fields, other types. */
export function readJson<Schema extends z.ZodType>(
  schema: Schema,
  body: string | undefined,
): z.infer<Schema> | undefined {
  if (body === undefined) return undefined
  let json: unknown
  try {
    json = JSON.parse(body)
  } catch (error) {
    if (error instanceof SyntaxError) return undefined
    throw error
  }
  const read = schema.safeParse(json)
  return read.success ? read.data : undefined
}

export function jsonRequest(
  path: string,
  headers: Readonly<Record<string, string>>,
  json: unknown,
): HttpRequest {
  const types = { accept: 'application/json', 'content-type': 'application/json' }
  return { path, headers: { ...headers, ...types }, body: encodeJson(json) }
}

/** Sends over a provider's API. Never sends anything twice by itself. */
export function createApiTransport(api: MailApi, client: HttpClient, clock: Clock): Transport {
  const deps: ApiDeps = { api, client, now: () => clock.now() }
  const { batch } = api
  return {
    send: (outgoing, signal, isStillOurs) => sendOne({ ...deps, isStillOurs }, outgoing, signal),
    ...(batch === undefined
      ? {}
      : {
          batch: {
            size: batch.size,
            takesAttachments: batch.takesAttachments,
            send: (outgoing, signal, isStillOurs) =>
              sendBatch({ ...deps, isStillOurs, batch }, outgoing, signal),
          },
        }),
    close: () => client.close(),
  }
}

export type ApiDeps = {
  readonly api: MailApi
  readonly client: HttpClient
  readonly now: () => number
  readonly isStillOurs?: StillOurs | undefined
}

/** As many pieces as must be sent, or the outcome of a mail that cannot be sent at all. */
export function piecesOf(api: MailApi, outgoing: Outgoing): readonly [Piece, ...Piece[]] | SendOutcome {
  if (!isSendable(outgoing.envelope)) return { kind: 'refused', code: 'invalid_envelope' }
  const composition = composed(outgoing.mail)
  if (!composition.ok) return composition.outcome
  const { content } = composition
  if (content.size > api.maxBytes) {
    const reply = `The message has ${content.size} bytes with its attachments encoded; this provider takes at most ${api.maxBytes}.`
    return { kind: 'refused', code: 'message_too_large', reply }
  }
  const { mail } = outgoing
  const addressing = addressingOf(outgoing)
  const [first, ...others] = api.writesHeaders ? withVisibleRecipient(addressing) : [addressing]
  const piece = (each: Addressing, key: string): Piece => ({ mail, content, addressing: each, key })
  if (others.length === 0) return [piece(first, mail.id)]
  const keyed = (each: Addressing) => piece(each, `${mail.id}/${hash('sha256', addressesOf(each).join())}`)
  return [keyed(first), ...others.map(keyed)]
}

export async function sendOne(
  deps: ApiDeps,
  outgoing: Outgoing,
  signal: AbortSignal | undefined,
): Promise<SendOutcome> {
  const pieces = piecesOf(deps.api, outgoing)
  if ('kind' in pieces) return pieces
  if (pieces.length === 1) return sendPiece(deps, pieces[0], signal)
  return mergePieces(pieces, await sendInTurn(deps, pieces, signal))
}

/** How long messages that must be sent one by one may take together. */
const IN_TURN_MS = 60_000

/** One after the other. As soon as the provider gives no proper answer, or time is up, the rest are left unsent. */
export async function sendInTurn(
  deps: ApiDeps,
  pieces: readonly Piece[],
  signal: AbortSignal | undefined,
): Promise<SendOutcome[]> {
  const until = deps.now() + IN_TURN_MS
  const outcomes: SendOutcome[] = []
  for (const piece of pieces) {
    const last = outcomes.at(-1)
    if (last?.kind === 'unreachable') outcomes.push(last)
    else if (last?.kind === 'unknown' || deps.now() > until) outcomes.push(LEFT_UNSENT)
    else outcomes.push(await sendPiece(deps, piece, signal))
  }
  return outcomes
}

const LEFT_UNSENT: SendOutcome = {
  kind: 'unreachable',
  code: 'service_unavailable',
  reason: 'not sent, because the provider was too slow with the messages before it',
}

async function sendPiece(
  { api, client, now, isStillOurs }: ApiDeps,
  piece: Piece,
  signal: AbortSignal | undefined,
): Promise<SendOutcome> {
  const result = await client.post(await api.toRequest(piece), signal, isStillOurs)
  if (result.kind !== 'answered') return result
  const { answer } = result
  return withRate(outcomeOf(api, api.readAnswer(answer, piece)), answer, now)
}

export function outcomeOf(api: MailApi, read: Accepted | ApiFault): SendOutcome {
  if (isAccepted(read)) return withoutSecrets(read, api.secrets)
  return outcomeOfFault(classifyFault(api.rules, read), read, api.secrets)
}

function withoutSecrets(accepted: Accepted, secrets: readonly string[]): Accepted {
  const { reply, providerMessageId: id } = accepted
  return {
    ...accepted,
    reply: safeText(reply, secrets),
    ...(id === undefined ? {} : { providerMessageId: safeText(id, secrets) }),
  }
}

export function withRate(outcome: SendOutcome, answer: HttpAnswer, now: () => number): SendOutcome {
  const rate = readRate(answer.headers, answer.status, now())
  return rate === undefined ? outcome : { ...outcome, rate }
}

/**
 * Several pieces, one message: what was accepted stays accepted, and the recipients of the others are listed. With a
 * piece whose outcome is unknown the whole is, because the state of a message has no finer grain.
 */
function mergePieces(pieces: readonly Piece[], outcomes: readonly SendOutcome[]): SendOutcome {
  const accepted = outcomes.find((outcome): outcome is Accepted => outcome.kind === 'accepted')
  const decisive = outcomes.find(({ kind }) => kind === 'unknown') ?? accepted ?? outcomes[0]
  if (decisive === undefined) throw new Error('a mail has at least one piece')
  if (decisive !== accepted) return decisive
  const refused = outcomes.flatMap((outcome, index): RefusedRecipient[] => {
    if (outcome.kind === 'accepted') return [...outcome.refused]
    const { kind, code, rate: _rate, ...said } = outcome
    const reply = 'reason' in said ? said.reason : said.reply
    const recipients = addressesOf(pieces[index]?.addressing ?? { to: [], cc: [], bcc: [] })
    return recipients.map((recipient) => ({
      recipient,
      permanent: kind === 'refused',
      code,
      ...(reply === undefined ? {} : { reply }),
    }))
  })
  return { ...decisive, refused }
}
