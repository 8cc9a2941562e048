/** What a provider can say happened to a message, in the words of every provider alike. */
export const FEEDBACK_TYPES = [
  'delivered',
  'deferred',
  'bounced',
  'complained',
  'opened',
  'clicked',
  'unsubscribed',
  'rejected',
] as const

export type FeedbackEvent = {
  /** Unique for this provider event and recipient: the same event told twice has the same key. */
  readonly key: string
  readonly type: (typeof FEEDBACK_TYPES)[number]
  /** When the provider says it happened. */
  readonly at: Date
  /** Name of the endpoint's provider, '' when unknown. */
  readonly provider: string
  readonly match: {
    readonly sluiceId?: string
    /** Message-ID header, with or without <>. */
    readonly messageId?: string
    readonly providerMessageId?: string
  }
  /** Bare address, lower-cased domain. */
  readonly recipient?: string
  readonly bounce?: {
    readonly kind: 'hard' | 'soft' | 'undetermined'
    /** Enhanced status, e.g. 5.1.1. */
    readonly code?: string
    readonly reason?: string
  }
  /** Url of a click, user agent…: small. */
  readonly detail?: Readonly<Record<string, unknown>>
}
