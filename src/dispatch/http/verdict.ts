import { parseReply } from '../classify.ts'
import type { SendOutcome, Verdict } from '../transport.ts'

/** What a provider says of one message, whether it stands for the whole answer or for one entry of a batch. */
export type ApiFault = {
  readonly status: number
  /** The provider's own name or number for it; undefined when the answer is not in the provider's form. */
  readonly providerCode?: string | undefined
  /** In the provider's words. */
  readonly text?: string | undefined
}

export type ApiRule = {
  readonly statuses?: readonly number[]
  readonly providerCodes?: readonly string[]
  /** Only where the provider gives two faults the same name, and the words alone tell them apart. */
  readonly text?: RegExp
  readonly verdict: Verdict
}

/** What the statuses mean where a provider's own rules say nothing else (RFC 9110 section 15, RFC 6585). */
const STATUS_RULES: readonly ApiRule[] = [
  // A gateway gave the request to a server and did not hear from it again.
  { statuses: [504], verdict: { kind: 'unknown', code: 'timed_out' } },
  { statuses: [408], verdict: { kind: 'unreachable', code: 'timed_out' } },
  { statuses: [429], verdict: { kind: 'unreachable', code: 'throttled' } },
  { statuses: [401, 403, 407], verdict: { kind: 'unreachable', code: 'auth_failed' } },
  { statuses: [402], verdict: { kind: 'unreachable', code: 'account_paused' } },
  { statuses: [404, 405, 406, 410, 415], verdict: { kind: 'unreachable', code: 'provider_misconfigured' } },
  { statuses: [413], verdict: { kind: 'refused', code: 'message_too_large' } },
  { statuses: [400, 422], verdict: { kind: 'refused', code: 'request_refused' } },
]

/** What a refusal means for the message. Total: every input has a verdict, and none of them is "accepted". */
export function classifyFault(rules: readonly ApiRule[], fault: ApiFault): Verdict {
  const own = rules.find((rule) => matches(rule, fault))
  if (own !== undefined) return own.verdict
  const { status, providerCode, text } = fault
  const verdict = STATUS_RULES.find((rule) => matches(rule, fault))?.verdict
  // Something between us and the provider may answer 400 too; only the provider's own words condemn a message.
  const isAnonymous = providerCode === undefined && text === undefined
  if (verdict?.code === 'request_refused' && isAnonymous) {
    return { kind: 'deferred', code: 'provider_deferred' }
  }
  if (verdict !== undefined) return verdict
  if (status >= 500) return { kind: 'unreachable', code: 'service_unavailable' }
  // A redirect is never followed: it would take the key and the mail to a host that nobody named.
  if (status >= 300 && status < 400) return { kind: 'unreachable', code: 'protocol_error' }
  // Success that is not the one documented: it may mean anything.
  if (status < 300) return { kind: 'unknown', code: 'protocol_error' }
  return { kind: 'deferred', code: 'provider_deferred' }
}

function matches({ statuses, providerCodes, text }: ApiRule, fault: ApiFault): boolean {
  if (statuses !== undefined && !statuses.includes(fault.status)) return false
  if (providerCodes !== undefined && !providerCodes.includes(fault.providerCode ?? '')) return false
  return text === undefined || text.test(fault.text ?? '')
}

/** Puts the provider's words beside what they mean; `secrets` never appear in them. */
export function outcomeOfFault(
  verdict: Verdict,
  { status, providerCode, text = '' }: ApiFault,
  secrets: readonly string[],
): SendOutcome {
  const reply = safeText(text, secrets)
  const said = {
    httpStatus: status,
    ...(providerCode === undefined ? {} : { providerCode: safeText(providerCode, secrets) }),
  }
  if (verdict.kind === 'refused' || verdict.kind === 'deferred') {
    return { ...verdict, reply: reply === '' ? `HTTP ${status}` : reply, ...said }
  }
  return { ...verdict, reason: reply === '' ? `HTTP ${status}` : reply, ...said }
}

/** Some providers repeat what they were sent, credentials included, to explain why it is wrong. */
export function safeText(text: string, secrets: readonly string[]): string {
  const clean = secrets.reduce((rest, secret) => rest.replaceAll(secret, '[secret]'), text)
  return parseReply(clean).reply ?? ''
}
