import { openMessage } from '../message/sensitive-message.ts'
import { openBytes, SealError, type Sealer } from '../sealer.ts'
import type { ClaimedMessage, Settlement } from './queries.ts'
import { isRelay, type SendOutcome } from './transport.ts'

type Opened =
  | { readonly ok: true; readonly message: ClaimedMessage }
  | { readonly ok: false; readonly outcome: SendOutcome }

/** A claimed message with its secrets: only in memory, for as long as it is being sent. */
export function openClaimed(sealer: Sealer, claimed: ClaimedMessage): Opened {
  const { id, message: clear, sealed, sealed_parts: sealedParts } = claimed
  if (sealed === null && !clear.sensitive) return { ok: true, message: claimed }
  try {
    const message = openMessage(sealer, id, { clear, sealed: sealed ?? '' })
    const parts = sealedParts === null ? {} : JSON.parse(sealer.open(id, sealedParts).text)
    return { ok: true, message: { ...claimed, ...parts, message } }
  } catch (error) {
    return { ok: false, outcome: unreadable(error) }
  }
}

/** Attachments as their messages sealed them, opened for one send. Throws a SealError. */
export function openAttachment(content: Buffer, key: string | undefined): Buffer {
  return key === undefined ? content : openBytes(content, key)
}

/** The outcome of a message that cannot be read here; a retry after the key was added sends it. */
export function unreadable(error: unknown): SendOutcome {
  if (!(error instanceof SealError)) throw error
  const code = error.code === 'content_damaged' ? 'content_damaged' : 'encryption_key_missing'
  return { kind: 'refused', code, reply: error.message }
}

/**
 * What became of a sensitive message, without what was said about it: a relay may quote the mail it refuses. The id in an
 * API's answer stays, as its events are matched by it; what a relay says after the content is for its own log.
 */
export function withoutWords(settlement: Settlement, transport: string | undefined): Settlement {
  const events = settlement.events.map(({ detail, ...event }) => ({
    ...event,
    ...(detail !== undefined && { detail: codesOf(detail) }),
  }))
  const reason = settlement.reason === null ? null : describeWithheld(settlement)
  return {
    ...settlement,
    reason,
    events,
    providerMessageId: isRelay(transport) ? null : settlement.providerMessageId,
  }
}

/** The same outcome, as far as it may be told of the provider in general. */
export function quiet(outcome: SendOutcome): SendOutcome {
  if (outcome.kind === 'unreachable' || outcome.kind === 'unknown') return { ...outcome, reason: WITHHELD }
  return { ...outcome, reply: WITHHELD }
}

const WITHHELD = '(its words are not kept: the mail was sensitive)'

/** What a provider cannot fill with sentences of the mail. */
const PLAIN_CODE = /^[A-Za-z0-9._-]{1,60}$/

function codesOf({ reply: _, reason: __, provider_code: code, ...codes }: Readonly<Record<string, unknown>>) {
  return { ...codes, ...(typeof code === 'string' && PLAIN_CODE.test(code) && { provider_code: code }) }
}

function describeWithheld({ code, events }: Settlement): string {
  const { smtp_code: smtp, enhanced_code: enhanced, http_status: http } = events.at(-1)?.detail ?? {}
  const codes = [smtp, enhanced, http].filter((each) => each !== undefined).join(' ')
  return `${code}${codes === '' ? '' : ` (${codes})`}. The words of the provider are not kept, because the message is sensitive and they may quote it.`
}
