import type { Stream } from '../catalog.ts'
import { retryDelayMs } from './backoff.ts'
import type { SettledEvent, Settlement } from './queries.ts'
import { namedDelayMs } from './reply-words.ts'
import type { RefusedRecipient, SendOutcome, ServerReply } from './transport.ts'

/** The attempt an outcome belongs to. */
export type Attempt = {
  readonly id: string
  readonly attempt: number
  readonly claimedAt: string
  readonly provider: string
  readonly recipients: readonly string[]
  /** Since it waits to be sent. */
  readonly ageMs: number
}

export type SettlementRules = {
  readonly stream: Pick<Stream, 'attempts' | 'backoff' | 'onUnknown' | 'name' | 'maxAgeMs'>
  /** How long a provider that could not be reached is left alone. */
  readonly unreachableDelayMs: number
  readonly random: () => number
}

const REASON_LENGTH = 2_000

/** What an outcome means for its message under the rules of its stream. Pure: every case is a test. */
export function settle(attempt: Attempt, outcome: SendOutcome, rules: SettlementRules): Settlement {
  switch (outcome.kind) {
    case 'accepted':
      return settleAccepted(attempt, outcome, rules)
    case 'refused':
      return withRefusals(
        dead(attempt, outcome.code, outcome.reply ?? outcome.code, detailOf(attempt, outcome)),
        refusalsOf(attempt, outcome),
      )
    case 'deferred':
      return settleDeferred(attempt, outcome, rules)
    case 'unknown':
      return settleUnknown(attempt, outcome, rules)
    case 'unreachable':
      return settleUnreachable(attempt, outcome, rules)
  }
}

/** Nobody has it; those who were refused for good are not tried again with the others. */
function settleDeferred(
  attempt: Attempt,
  outcome: Extract<SendOutcome, { kind: 'deferred' }>,
  rules: SettlementRules,
): Settlement {
  const rest = retryOrBury(
    attempt,
    outcome.code,
    outcome.reply ?? outcome.code,
    'deferred',
    detailOf(attempt, outcome),
    rules,
    namedDelay(outcome, outcome),
  )
  return withRefusals(rest, refusalsOf(attempt, outcome))
}

function withRefusals(settlement: Settlement, refusals: readonly SettledEvent[]): Settlement {
  if (refusals.length === 0) return settlement
  return {
    ...settlement,
    isPartlySettled: settlement.status === 'deferred',
    events: [...refusals, ...settlement.events],
  }
}

/** An event for each recipient that was refused for good; one that stands alone is meant by the whole answer. */
function refusalsOf(
  attempt: Attempt,
  outcome: Extract<SendOutcome, { kind: 'refused' | 'deferred' }>,
): SettledEvent[] {
  const [only, ...others] = attempt.recipients
  const isAboutOne = outcome.code === 'bad_recipient' && only !== undefined && others.length === 0
  const refused = outcome.recipients ?? (isAboutOne ? [{ ...outcome, recipient: only, permanent: true }] : [])
  return refused
    .filter((each) => each.permanent)
    .map((each) => ({
      type: 'recipient_refused',
      recipient: each.recipient,
      detail: detailOf(attempt, each),
    }))
}

/** Nothing was handed over, and not for a reason of the message's: costs no attempt, but time is counted. */
function settleUnreachable(
  attempt: Attempt,
  outcome: Extract<SendOutcome, { kind: 'unreachable' }>,
  rules: SettlementRules,
): Settlement {
  const detail = { ...detailOf(attempt, outcome), reason: outcome.reason.slice(0, REASON_LENGTH) }
  if (attempt.ageMs > rules.stream.maxAgeMs) return expired(attempt, outcome.reason, detail, rules)
  return {
    ...baseOf(attempt),
    status: 'deferred',
    countsAsAttempt: false,
    code: outcome.code,
    delayMs: rules.unreachableDelayMs,
    events: [{ type: 'unreachable', detail }],
  }
}

/** A send that ended in a way nobody foresaw. */
export function settleFault(attempt: Attempt, code: string, reason: string): Settlement {
  return dead(attempt, code, reason, detailOf(attempt, { code }))
}

function settleAccepted(
  attempt: Attempt,
  outcome: Extract<SendOutcome, { kind: 'accepted' }>,
  rules: SettlementRules,
): Settlement {
  const refusals: SettledEvent[] = outcome.refused
    .filter((each) => each.permanent)
    .map((each) => ({
      type: 'recipient_refused',
      recipient: each.recipient,
      detail: detailOf(attempt, each),
    }))
  const notYet = outcome.refused.filter((each) => !each.permanent)
  if (notYet.length > 0) return settlePartly(attempt, outcome, notYet, refusals, rules)
  return {
    ...baseOf(attempt),
    status: 'sent',
    providerMessageId: storable(outcome.providerMessageId),
    events: [
      ...refusals,
      {
        type: 'sent',
        detail: { provider: attempt.provider, attempt: attempt.attempt, reply: outcome.reply },
      },
    ],
  }
}

/** Some recipients have it, others were told "not now": only those are tried again. */
function settlePartly(
  attempt: Attempt,
  outcome: Extract<SendOutcome, { kind: 'accepted' }>,
  notYet: readonly RefusedRecipient[],
  refusals: readonly SettledEvent[],
  rules: SettlementRules,
): Settlement {
  const refused = new Set(outcome.refused.map((each) => each.recipient))
  const sent: SettledEvent[] = attempt.recipients
    .filter((recipient) => !refused.has(recipient))
    .map((recipient) => ({
      type: 'recipient_sent',
      recipient,
      detail: { provider: attempt.provider, attempt: attempt.attempt, reply: outcome.reply },
    }))
  const first = notYet[0]
  const code = first?.code ?? 'smtp_deferred'
  const rest = retryOrBury(
    attempt,
    code,
    first?.reply ?? code,
    'deferred',
    detailOf(attempt, { ...first, code }),
    rules,
    Math.max(...notYet.map((each) => namedDelay(outcome, each))),
  )
  return { ...rest, isPartlySettled: true, events: [...sent, ...refusals, ...rest.events] }
}

function settleUnknown(
  attempt: Attempt,
  outcome: Extract<SendOutcome, { kind: 'unknown' }>,
  rules: SettlementRules,
): Settlement {
  const detail = { ...detailOf(attempt, outcome), reason: outcome.reason.slice(0, REASON_LENGTH) }
  if (rules.stream.onUnknown === 'retry') {
    return retryOrBury(attempt, outcome.code, outcome.reason, 'unknown', detail, rules)
  }
  return {
    ...baseOf(attempt),
    status: 'unknown',
    code: outcome.code,
    events: [{ type: 'unknown', detail }],
  }
}

function retryOrBury(
  attempt: Attempt,
  code: string,
  reason: string,
  type: 'deferred' | 'unknown',
  detail: Readonly<Record<string, unknown>>,
  rules: SettlementRules,
  /** A delay the provider named. */
  atLeastMs = 0,
): Settlement {
  if (attempt.attempt >= rules.stream.attempts) return dead(attempt, code, reason, detail)
  if (attempt.ageMs > rules.stream.maxAgeMs) return expired(attempt, reason, detail, rules)
  return {
    ...baseOf(attempt),
    status: 'deferred',
    code,
    delayMs: Math.max(atLeastMs, retryDelayMs(rules.stream.backoff, attempt.attempt, rules.random)),
    events: [{ type, detail }],
  }
}

/** What the provider asks of everyone, or its reply of this message alone ("greylisted for 5 minutes"). */
function namedDelay(outcome: SendOutcome, { reply = '' }: ServerReply): number {
  return Math.max(outcome.rate?.pauseMs ?? 0, namedDelayMs(reply) ?? 0)
}

function expired(
  attempt: Attempt,
  reason: string,
  detail: Readonly<Record<string, unknown>>,
  rules: SettlementRules,
): Settlement {
  const hours = Math.round(rules.stream.maxAgeMs / 3_600_000)
  return dead(attempt, 'expired', `Not sent within ${hours} h, the latest: ${reason}`, detail)
}

/** A provider's id is theirs to choose: what a column cannot hold is dropped from it. */
function storable(id: string | undefined): string | null {
  if (id === undefined) return null
  return id
    .replace(/\p{Cc}/gu, '')
    .slice(0, 500)
    .toWellFormed()
}

function dead(
  attempt: Attempt,
  code: string,
  reason: string,
  detail: Readonly<Record<string, unknown>>,
): Settlement {
  return {
    ...baseOf(attempt),
    status: 'dead',
    code,
    reason: reason.slice(0, REASON_LENGTH),
    events: [{ type: 'dead', detail: { stage: 'dispatch', ...detail } }],
  }
}

function baseOf(attempt: Attempt) {
  return {
    id: attempt.id,
    attempt: attempt.attempt,
    claimedAt: attempt.claimedAt,
    countsAsAttempt: true,
    providerMessageId: null,
    providerRef: null,
    code: null,
    reason: null,
    delayMs: null,
    recipientDomain: attempt.recipients[0]?.split('@')[1] ?? null,
    isPartlySettled: false,
  } as const
}

function detailOf(attempt: Attempt, said: { code: string } & ServerReply): Readonly<Record<string, unknown>> {
  return {
    provider: attempt.provider,
    attempt: attempt.attempt,
    code: said.code,
    reply: said.reply,
    smtp_code: said.smtpCode,
    enhanced_code: said.enhancedCode,
    http_status: said.httpStatus,
    provider_code: said.providerCode,
  }
}
