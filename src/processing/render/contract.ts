import type { DeclaredVariable, TemplatePartial } from '../../templates/template-content.ts'

/** What the rest of the service knows of rendering: the request, the result, and why a message could not be rendered. */

/**
 * One version of a template. `key` names the versions of the template and of all its partials: equal keys always have
 * equal sources, which is what lets compiled templates be kept. A part that is null is not rendered.
 */
export type TemplateSource = {
  readonly key: string
  readonly subject: string | null
  readonly html: string | null
  readonly text: string | null
  readonly variables?: readonly DeclaredVariable[]
  /** All templates that this one uses, directly or not. `unchecked`: whatever it names counts as there, and empty. */
  readonly partials?: readonly TemplatePartial[] | 'unchecked'
  /** What becomes of variables that are not given: `fail` the message, `list` them; unset: they render as nothing. */
  readonly onMissing?: 'fail' | 'list'
}

/** `variables` is plain JSON data. `id` is given back with the result and must be unique within one call. */
export type RenderRequest = {
  readonly id: string
  readonly template: TemplateSource
  readonly variables: Readonly<Record<string, unknown>>
  /** Adds a text made of the rendered HTML, where the template has none and one can be made. */
  readonly derivesText?: boolean
}

export const RENDER_FAILURES = [
  /** The source does not parse, or uses a tag or filter that is not offered. */
  'template_syntax',
  /** The source is longer, or holds more Liquid, than a template may. */
  'template_too_large',
  /** An operation failed on this message's data. */
  'template_failed',
  /** A strict template lacks variables; the reason names them. */
  'template_missing_variable',
  /** A template that this one uses is not published, or not any more. */
  'template_partial_missing',
  /** Rendering took too long and was stopped. */
  'template_timeout',
  /** Rendering asked for more memory than one message may have. */
  'template_memory',
  /** A rendered part is longer than a mail may be. */
  'output_too_large',
  /** A rendered part holds what a mail cannot carry, such as a line break in the subject. */
  'output_invalid',
  'variables_too_large',
  /** The variables are not JSON data. */
  'variables_invalid',
] as const

export type RenderFailureCode = (typeof RENDER_FAILURES)[number]

/** `reason` is a sentence for people; it names the part, and the line and column where they are known. */
export type RenderFailure = { readonly code: RenderFailureCode; readonly reason: string }

/** Holds exactly the parts that the template has. */
export type Rendered = { readonly subject?: string; readonly html?: string; readonly text?: string }

/** `missing`: the variables that were not given, when the source asks for the list. */
export type RenderedMessage = { readonly rendered: Rendered; readonly missing?: readonly string[] }

export type PreviewResult =
  | ({ readonly ok: true } & RenderedMessage)
  | ({ readonly ok: false } & RenderFailure)

export type RenderResult =
  | ({ readonly id: string; readonly ok: true } & RenderedMessage)
  | ({ readonly id: string; readonly ok: false } & RenderFailure)

export type CheckResult = { readonly ok: true } | ({ readonly ok: false } & RenderFailure)

/**
 * `deferred` holds the ids that were not tried, or not to the end, because their template is suspect and they must not make
 * the rest of the batch wait: call again with these alone. Each id is either in `results` (in the order asked) or in `deferred`.
 */
export type RenderBatch = { readonly results: RenderResult[]; readonly deferred: string[] }

export type RenderPoolErrorCode = 'render_pool_stopped' | 'render_thread_failed'

/** The pool itself could not do its work: nothing is wrong with the messages, and trying again later is right. */
export class RenderPoolError extends Error {
  readonly code: RenderPoolErrorCode
  readonly retryable = true

  constructor(code: RenderPoolErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'RenderPoolError'
    this.code = code
  }
}
