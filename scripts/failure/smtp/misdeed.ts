import type { Acts } from './hostile-relay.ts'

/** What relays do to their clients, and what has to become of the mail. */

export type Misdeed = {
  readonly does: string
  readonly acts: Acts
  /** Done to connections in turn, whatever mail they come for; then what its messages meet is another's. */
  readonly isOfConnection?: true
  /** The timeline of a message that met it once; its last word is how it ends. */
  readonly ends: string
  /** How often its recipient may see it in the end. */
  readonly copies: number
  /** The same of its second recipient, where it has one. */
  readonly secondCopies?: number
  /** Done at every attempt. */
  readonly always?: true
  readonly mail?: Readonly<Record<string, unknown>>
  /** It comes again no sooner than this; half of the least backoff by default. */
  readonly waitsS?: number
  /** Done so seldom: the whole provider waits after each, ever longer. */
  readonly atMost?: number
}

export const ATTEMPTS = 3
export const BACKOFF_S = 1
