import type { RenderedMessage, RenderFailure, TemplateSource } from './contract.ts'

/** What passes between a lane and its thread. Strings only, in few and large messages: a post costs more than a mail. */
export type ThreadPost = {
  /** Sources the thread does not have yet, and keys it must drop first. The lane decides, so that both always agree. */
  readonly learn: readonly TemplateSource[]
  readonly forget: readonly string[]
  readonly messages: readonly ThreadMessage[]
}

/** `variables` is JSON; null asks only whether the template parses. Of HTML alone, the text is wanted. */
export type ThreadMessage =
  | { readonly key: string; readonly variables: string | null; readonly derivesText: boolean }
  | { readonly html: string }

/** `skipped`: not tried, because an earlier message of this post showed its template to be slow. */
export type Outcome = RenderedMessage | { readonly failure: RenderFailure } | { readonly skipped: true }

/** `outcomes` continue where the last report of the same post ended; `done` may come before all have one. */
export type ThreadReport = {
  readonly outcomes: readonly Outcome[]
  readonly slowKeys: readonly string[]
  readonly done: boolean
}

export type ThreadSettings = {
  /**
   * Three Int32: the position in the post of the message being worked on, or NO_MESSAGE; 1 while text is made of its
   * HTML; after how many milliseconds the rest of the post is left, since others wait.
   */
  readonly position: SharedArrayBuffer
  readonly softStopMs: number
  readonly slowMs: number
  /** Whether to skip the rest of a template's messages once one was slow. */
  readonly skipsSlow: boolean
}

export const NO_MESSAGE = -1
