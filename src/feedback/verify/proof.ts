/** One request as it came. Nothing in it is believed before its proof was checked. */
export type Delivery = {
  readonly header: (name: string) => string | undefined
  /** The raw bytes: a signature covers them, not what they mean. */
  readonly body: Buffer
  /** It came with an API key that may operate; a proof for mail only. */
  readonly isVouchedFor?: boolean
}

/** What was wrong with a proof. For the operator only: the sender is told the same 401 for each. */
export const REFUSALS = [
  'proof_missing',
  'proof_malformed',
  'signature_wrong',
  'credentials_wrong',
  'timestamp_outside_tolerance',
  'topic_not_listed',
  'signature_version_refused',
  'certificate_url_refused',
  'certificate_unusable',
] as const

/** Why a proof could not be checked. It may be right: the sender is asked to come again. */
export const OBSTACLES = [
  'secret_not_set',
  'secret_unusable',
  'certificate_unreachable',
  'confirmation_failed',
] as const

export type Refusal = (typeof REFUSALS)[number]
export type Obstacle = (typeof OBSTACLES)[number]

export type Verdict =
  /** `eventKey` is the same when the same delivery comes again, and differs for every other one. */
  | { readonly kind: 'proved'; readonly eventKey: string }
  /** SNS asks whether this endpoint wants a topic; it is one that is listed. */
  | { readonly kind: 'subscription'; readonly topicArn: string; readonly token: string }
  | { readonly kind: 'refused'; readonly reason: Refusal }
  | { readonly kind: 'unchecked'; readonly reason: Obstacle }

export function refused(reason: Refusal): Verdict {
  return { kind: 'refused', reason }
}

/** Whole seconds since the epoch as a header or field has them; undefined for anything else. */
export function readSeconds(text: string | undefined): number | undefined {
  return text !== undefined && /^\d{1,12}$/.test(text) ? Number(text) : undefined
}

/** True within the tolerances around `nowMs`; a sender's clock may be ahead as well as behind. */
export function isFresh(
  atMs: number,
  nowMs: number,
  { pastS, futureS }: { pastS: number; futureS: number },
): boolean {
  return atMs >= nowMs - pastS * 1_000 && atMs <= nowMs + futureS * 1_000
}
