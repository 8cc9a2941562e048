/** What a client hears when it hands in a mail. */
export type Answer = {
  /** As in HTTP; 200 also of a commit, and 0 when the connection broke: whether it was accepted is not known. */
  readonly status: number
  readonly retryAfterS: number | undefined
  readonly isDurable: boolean
}

/** `key`: its Idempotency-Key; without one a repetition would be another mail. */
export type Submission = { readonly text: string; readonly key?: string }

/** One connection to Sluice, for one mail at a time. */
export type Door = { handIn(submission: Submission): Promise<Answer>; close(): void }

export const BROKEN: Answer = { status: 0, retryAfterS: undefined, isDurable: false }
